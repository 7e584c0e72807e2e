// Several replies to the same message, side by side, until one of them is chosen: variants, or an earlier reply beside that
// of another model. A thread treats it as one message.

import { element, made, named } from "./html.js"
import { keep, recall } from "./local_storage.js"

const LETTERS = "ABCDEFGH"

export class Choice {
  // `replies`: in the order of their numbers. `compared`: the earlier reply that stands beside the only new one; null:
  // the replies are variants. `blind`: the models, and which reply is the new one, are hidden until the choice.
  constructor(chat, replies, { compared = null, blind = false } = {}) {
    this.role = "assistant"
    this.chat = chat
    this.replies = replies
    this.compared = compared
    this.blind = blind
    this.isMade = false
    this.node = made("choice-template")
    this.node.message = this
    this.shown = compared ? [compared, ...replies] : [...replies]
    if (blind) this.shown = orderOf(chat, this.shown)
    this.node.classList.toggle("blind", blind)
    this.node.querySelector("[data-do=choose-none]").hidden = !compared
    this.draw()
    this.live = false
  }

  draw() {
    this.node.querySelector(".beside").replaceChildren(...this.shown.map((reply, index) => {
      const column = made("column-template"), button = column.querySelector("[data-do=choose]")
      column.reply = reply
      column.setAttribute("aria-label", `Reply ${this.nameOf(index)}`)
      button.querySelector("kbd").textContent = index + 1
      button.setAttribute("aria-label", `Choose reply ${this.nameOf(index)}`)
      button.setAttribute("aria-keyshortcuts", index + 1)
      column.insertBefore(reply.node, button)
      reply.node.classList.remove("last", "far")
      return column
    }))
    this.drawNames()
  }

  nameOf(index) {
    return this.blind ? LETTERS[index] : String(index + 1)
  }

  drawNames() {
    this.shown.forEach((reply, index) => {
      const name = this.compared && !this.blind ? reply.model : ""
      this.columns[index].querySelector("h3").replaceChildren(named(name || this.nameOf(index)))
    })
  }

  get columns() {
    return [...this.node.querySelectorAll(".column")]
  }

  get id() {
    return this.replies[0].id
  }

  get rows() {
    return this.shown.map(reply => reply.id)
  }

  // One of the replies begins.
  begin(variant, id, model) {
    Object.assign(this.replies[variant], { id, model })
    this.drawNames()
    this.remember()
  }

  // The reply of an event.
  target(variant = 0) {
    return this.replies[variant]
  }

  get ended() {
    return this.replies.every(reply => reply.finish !== null)
  }

  get finish() {
    return this.ended ? this.replies[0].finish : null
  }

  set live(live) {
    for (const reply of this.replies) reply.live = live && reply.finish === null
    this.node.classList.toggle("live-choice", live)
    this.node.setAttribute("aria-busy", live ? "true" : "false")
    const heading = this.node.querySelector("h2")
    const words = this.compared ? "Two replies" : `${this.replies.length} variants`
    heading.textContent = live ? words : `${words}: choose the one to continue with`
    if (live && this.blind) heading.append(element("span", " They are shown when the new one is complete."))
    this.node.setAttribute("aria-label", words)
    for (const [index, column] of this.columns.entries()) {
      column.querySelector("[data-do=choose]").disabled = live || this.shown[index].id === null || this.shown[index].finish === null
    }
    this.node.querySelector("[data-do=choose-none]").disabled = live
    this.drawNames()
    this.remember()
  }

  // This browser shows the choice again after a reload, also of the server.
  remember() {
    const { rows, blind } = this
    if (rows.includes(null)) return
    keep(`choice:${this.chat}`, JSON.stringify({ rows, blind, compared: this.compared?.id ?? null }))
  }

  // The earlier reply, which was not on the page.
  replaceCompared(reply) {
    this.shown[this.shown.indexOf(this.compared)] = reply
    this.compared = reply
    this.draw()
    this.live = this.node.classList.contains("live-choice")
  }

  set variants(told) { /* they stand beside each other */ }
}

// The choice that this browser has not made yet: { rows, blind, compared } with ids; null: none.
export function pending(chat) {
  try {
    const { rows, blind, compared } = JSON.parse(recall(`choice:${chat}`))
    return Array.isArray(rows) && rows.length > 1 && rows.every(Number.isSafeInteger) ? { rows, blind, compared } : null
  } catch { return null }
}

export function forget(chat) {
  keep(`choice:${chat}`, "")
}

// A random order, or the one in which the replies were shown before.
function orderOf(chat, replies) {
  const rows = pending(chat)?.rows ?? [], known = replies.every(reply => rows.includes(reply.id))
  if (known) return replies.toSorted((one, other) => rows.indexOf(one.id) - rows.indexOf(other.id))
  return Math.random() < 0.5 ? replies : replies.toReversed()
}
