// The input field of a message. Events: "send" (the text), "stop", "recall" (edit the last message).
// Each conversation has a draft of its own, which is stored, so that no typed text is lost.

import { keep, recall } from "./local_storage.js"

export class Composer extends EventTarget {
  constructor(form) {
    super()
    this.form = form
    this.area = form.querySelector("textarea")
    this.button = form.querySelector("#send")
    this.note = form.querySelector("#editing")
    this.place = "new"
    this.answering = false
    this.editing = null
    form.addEventListener("submit", event => { event.preventDefault(); this.press() })
    this.area.addEventListener("input", () => { this.keep(); this.update() })
    this.area.addEventListener("keydown", event => this.key(event))
    this.note.querySelector("button").addEventListener("click", () => { this.cancel(); this.area.focus() })
    this.update()
  }

  get text() {
    return this.area.value
  }

  // The conversation whose draft is shown.
  open(place) {
    this.place = place
    this.editing = null
    this.note.hidden = true
    this.set(recall(`draft:${place}`))
  }

  set(text) {
    this.area.value = text
    this.keep()
    this.update()
  }

  // Edits an earlier message; the draft is kept.
  edit(message) {
    this.editing = message
    this.note.hidden = false
    this.area.value = message.content
    this.update()
    this.area.focus()
  }

  cancel() {
    this.editing = null
    this.note.hidden = true
    this.set(recall(`draft:${this.place}`))
  }

  set busy(answering) {
    this.answering = answering
    this.update()
  }

  // A new conversation has an id now: moves the draft to it if it is shown, else `content`.
  moved(from, place, content) {
    keep(`draft:${place}`, content)
    if (this.place === from) {
      this.place = place
      this.keep()
      keep(`draft:${from}`, "")
    } else keep(`draft:${from}`, behind(content, recall(`draft:${from}`)))
  }

  // Removes the sent text from a draft; text that was typed after it stays. `edited`: the message that the text
  // replaces.
  sent(place, content, edited) {
    const here = place === this.place
    if (edited !== undefined) {
      if (here && this.editing?.id === edited) this.cancel()
    } else if (here && !this.editing) this.set(behind(content, this.text))
    else keep(`draft:${place}`, behind(content, recall(`draft:${place}`)))
  }

  key(event) {
    if (event.isComposing) return
    if (event.key === "Enter" && !event.shiftKey && !event.altKey && !matchMedia("(pointer: coarse)").matches) {
      event.preventDefault()
      if (!this.answering) this.press()
    } else if (event.key === "Escape" && this.editing) {
      event.preventDefault()
      event.stopPropagation()
      this.cancel()
    } else if (event.key === "ArrowUp" && !this.text && !this.answering) {
      event.preventDefault()
      this.dispatchEvent(new Event("recall"))
    }
  }

  press() {
    if (this.answering) this.dispatchEvent(new Event("stop"))
    else if (this.text.trim()) this.dispatchEvent(new CustomEvent("send", { detail: this.text }))
    if (!matchMedia("(pointer: coarse)").matches) this.area.focus() // on a phone, focus would open the keyboard
  }

  keep() {
    if (!this.editing) keep(`draft:${this.place}`, this.text)
  }

  update() {
    this.button.disabled = !this.answering && !this.text.trim()
    this.button.setAttribute("aria-label", this.answering ? "Stop" : this.editing ? "Send the edited message" : "Send")
    this.button.title = this.answering ? "Stop (Esc)" : "Send (Enter)"
    this.button.querySelector("use").setAttribute("href", this.answering ? "#i-stop" : "#i-send")
    if (!CSS.supports("field-sizing", "content")) {
      this.area.style.height = "auto"
      this.area.style.height = `${this.area.scrollHeight}px`
    }
  }
}

function behind(sent, text) {
  return text.startsWith(sent) ? text.slice(sent.length).trimStart() : text
}
