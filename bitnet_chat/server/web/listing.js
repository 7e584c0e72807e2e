// Code blocks: a frame with the name of the language and a button. Long code arrives in pieces ("code more"), which share
// the frame of the first piece and scroll together.

import { made } from "./html.js"

// Frames all code in `root`.
export function frameCode(root) {
  let last = null
  for (const pre of root.querySelectorAll("pre.code")) {
    if (last && pre.classList.contains("more")) {
      last.querySelector(".listing-body").append(pre)
      continue
    }
    last = newFrame(pre)
    pre.replaceWith(last)
    last.querySelector(".listing-body").append(pre)
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
