// Code blocks: a frame with the name of the language and a button. Long code comes in pieces ("code more"), which share
// the frame of the first one, so that all of it scrolls as one.

import { made } from "./html.js"

// Frames all code in `root`. `before`: where the frame stands that a first piece may go on with.
export function frameCode(root, before) {
  for (const pre of root.querySelectorAll("pre.code")) {
    if (pre.closest(".listing")) continue
    const open = pre.classList.contains("more") && frameBefore(pre, before)
    if (open) {
      open.querySelector(".listing-body").append(pre)
      continue
    }
    const frame = newFrame(pre)
    pre.replaceWith(frame)
    frame.querySelector(".listing-body").append(pre)
  }
}

export function newFrame(pre) {
  const frame = made("listing-template")
  frame.querySelector("span").textContent = pre.dataset.language ?? ""
  return frame
}

export function textOf(frame) {
  return Array.from(frame.querySelectorAll("code"), code => code.textContent).join("")
}

function frameBefore(pre, before) {
  let last = before
  for (const frame of pre.getRootNode().querySelectorAll?.(".listing") ?? []) {
    if (frame.compareDocumentPosition(pre) & Node.DOCUMENT_POSITION_FOLLOWING) last = frame
  }
  return last
}
