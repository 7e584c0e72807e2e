// One message on the page: a user message, or a reply, complete or running.

import { element, fragmentOf, made, named } from "./html.js"
import { frameCode, newFrame } from "./listing.js"

const OUTCOMES = {
  length: "Stopped at the token limit.",
  interrupted: "Stopped.",
  cut_off: "Incomplete: the server ended before the reply did.",
  timeout: "Stopped at the time limit.",
  stalled: "Stopped: the engine had no output.",
  empty: "Empty reply.",
  repetition: "Stopped: the reply repeated the same text.",
  context_overflow: "Stopped: the context window is full.",
  engine_died: "Incomplete: the engine ended unexpectedly.",
  no_engine: "Incomplete: no engine is available.",
  bad_model: "Incomplete: the model cannot be loaded.",
  usage: "Incomplete.",
}
const STAYS = " Your message stays here. The next one is sent without it."
const WHOLE = ["stop", "role_marker", "tool_calls", null]

// What both kinds of messages share: the other messages with the same parent, by id, oldest first.
class Variants {
  // `told`: the message in the format of GET /chats/{id}.
  set variants({ siblings = [], position = 1 } = {}) {
    this.siblings = siblings
    this.position = position
    const group = this.node.querySelector(".variants"), button = name => group.querySelector(`[data-do=${name}]`)
    group.hidden = siblings.length < 2
    group.querySelector("span").textContent = `${position}/${siblings.length}`
    button("previous").disabled = position <= 1
    button("next").disabled = position >= siblings.length
  }

  // Focuses the button of a direction, or the other one at the end.
  focus(by) {
    const [previous, next] = this.node.querySelectorAll(".variants button"), wanted = by < 0 ? previous : next
    const button = wanted.disabled ? (by < 0 ? next : previous) : wanted
    button.focus({ preventScroll: true })
  }

  // The id of the variant `by` places after this one; undefined: none.
  beside(by) {
    return this.siblings?.[this.position - 1 + by]
  }
}

export class UserMessage extends Variants {
  constructor(id, content) {
    super()
    this.role = "user"
    this.id = id
    this.content = content
    this.node = made("user-template")
    this.node.message = this
    this.node.querySelector(".said").textContent = content
  }

  // The message has no reply, and a later message was sent.
  set passedOver(passed) {
    this.node.classList.toggle("passed", passed)
    this.node.querySelector(".unheard").hidden = !passed
  }
}

export class Reply extends Variants {
  constructor(id) {
    super()
    this.role = "assistant"
    this.node = made("reply-template")
    this.node.message = this
    this.prose = this.node.querySelector(".prose")
    this.begin(id, false)
  }

  // A complete reply, in the format of GET /chats/{id}.
  static of(told) {
    const reply = new Reply(told.id)
    reply.content = told.content
    reply.prose.append(fragmentOf(told.html ?? ""))
    if (told.html === undefined) reply.prose.textContent = told.content
    for (const child of reply.prose.children) child.dir = "auto"
    frameCode(reply.prose)
    reply.think(told.thinking)
    for (const call of told.tool_calls ?? []) reply.call(call.id, call.function.name, call.function.arguments)
    reply.end(told.finish_reason, told.model, told.stats ?? {})
    return reply
  }

  // A reply that begins. `goesOn`: it continues the text that is shown.
  begin(id, goesOn) {
    this.id = id
    this.content = goesOn ? this.content : ""
    this.finish = null
    this.variants = {}
    this.blocks = []
    this.prose.replaceChildren()
    this.node.querySelector(".thoughts").hidden = !goesOn
    if (!goesOn) this.node.querySelector(".thoughts div").textContent = ""
    this.node.querySelector(".thoughts").hidden = !this.node.querySelector(".thoughts div").textContent
    this.node.querySelector(".calls").replaceChildren()
    this.node.querySelector(".calls").hidden = true
    this.node.querySelector(".notices").replaceChildren()
    this.node.querySelector(".outcome").hidden = true
    this.verdict = null
    this.node.querySelector(".facts").textContent = ""
  }

  set live(live) {
    this.node.classList.toggle("live", live)
    this.node.setAttribute("aria-busy", live ? "true" : "false")
  }

  // Replaces the HTML of a block; "" removes it.
  show(number, html) {
    const content = fragmentOf(html)
    const code = content.children.length === 1 && content.firstElementChild.matches("pre.code") && content.firstElementChild
    if (code && code.classList.contains("more")) {
      const frame = this.frameBefore(number)
      if (frame) {
        this.slot(number, frame.querySelector(".listing-body")).replaceChildren(code)
        return
      }
    }
    const block = this.slot(number, this.prose)
    if (code) {
      let frame = block.querySelector(":scope > .listing")
      if (!frame) {
        frame = newFrame(code)
        block.replaceChildren(frame)
      }
      frame.querySelector("span").textContent = code.dataset.language ?? ""
      const body = frame.querySelector(".listing-body"), old = body.querySelector(":scope > pre")
      if (old) old.replaceWith(code)
      else body.prepend(code)
      return
    }
    frameCode(content)
    block.replaceChildren(content)
    if (!html) {
      block.remove()
      delete this.blocks[number]
    }
  }

  slot(number, parent) {
    let slot = this.blocks[number]
    if (!slot || slot.parentNode !== parent) {
      slot?.remove()
      slot = element("div", "", "block")
      slot.dir = "auto"
      slot.dataset.block = number
      // Blocks arrive in order, but after a reconnect some of them arrive again.
      const next = Array.from(parent.children).find(child => Number(child.dataset.block) > number)
      parent.insertBefore(slot, next ?? null)
      this.blocks[number] = slot
    }
    return slot
  }

  frameBefore(number) {
    for (let before = number - 1; before >= 0; before--) {
      const frames = this.blocks[before]?.querySelectorAll(".listing")
      if (frames?.length) return frames[frames.length - 1]
      const around = this.blocks[before]?.closest(".listing")
      if (around) return around
      if (this.blocks[before]) return null
    }
    return null
  }

  think(text) {
    if (!text) return
    this.node.querySelector(".thoughts").hidden = false
    this.node.querySelector(".thoughts div").append(text)
  }

  call(id, name, given) {
    const list = this.node.querySelector(".calls"), item = element("li", `Calls the tool ${name}`)
    item.append(element("code", given))
    list.append(item)
    list.hidden = false
  }

  note(text) {
    this.node.querySelector(".notices").append(element("p", text))
  }

  end(finish, model, stats) {
    this.finish = finish
    this.model = model
    this.live = false
    const outcome = this.node.querySelector(".outcome")
    const words = finish === "stop" && this.silent ? "Empty reply." : OUTCOMES[finish] ?? ""
    outcome.className = "outcome"
    outcome.textContent = words
    outcome.hidden = !words
    this.offer()
    this.node.querySelector(".facts").replaceChildren(...factsOf(model, stats))
  }

  // The choice between this reply and others; null: none.
  set verdict(vote) {
    const line = this.node.querySelector(".verdict"), others = vote?.replies.filter(each => each.message !== this.id) ?? []
    line.hidden = !vote
    if (!vote) return
    const words = vote.chosen === null ? "Not better or worse than " : vote.chosen === this.id ? "Chosen over " : "Not chosen over "
    const names = others.flatMap((each, index) => [index ? ", " : "", named(each.model || "another reply")])
    line.replaceChildren(words, ...names, vote.blind ? ", without knowing the models." : ".")
  }

  get silent() {
    return !this.prose.textContent.trim() && !this.prose.querySelector("hr")
  }

  // The actions that are available.
  offer(failed = false) {
    const button = name => this.node.querySelector(`[data-do=${name}]`)
    const bare = this.silent && this.finish !== "tool_calls"
    this.node.classList.toggle("bare", bare)
    button("continue").hidden = this.silent || WHOLE.includes(this.finish)
    button("retry").hidden = !(failed || bare)
    button("regenerate").hidden = !button("retry").hidden
    this.node.querySelector(".menu").hidden = button("regenerate").hidden
  }

  // `kept`: the text so far is stored, and so is the message before it.
  fail(error, finish, kept) {
    this.end(finish, "", {})
    const outcome = this.node.querySelector(".outcome")
    outcome.className = "outcome wrong"
    outcome.replaceChildren(element("strong", "No reply: "), saidOf(error), kept || !this.silent ? "" : STAYS)
    outcome.hidden = false
    this.offer(true)
  }

  // The reply was stopped before its first token, or before its first new one.
  stopped(finish, model) {
    this.end(finish, model, {})
    if (this.silent) this.node.querySelector(".outcome").append(STAYS)
  }

  // The message has no reply, because the server ended before it.
  miss() {
    this.end("", "", {})
    const outcome = this.node.querySelector(".outcome")
    outcome.textContent = `No reply yet.${STAYS}`
    outcome.hidden = false
  }
}

// The text of an error: what happened, and what to do.
export function saidOf({ message, remedy }) {
  return [message, remedy].filter(Boolean).map(text => `${text.charAt(0).toUpperCase()}${text.slice(1).replace(/[.]$/, "")}.`).join(" ")
}

function factsOf(model, stats) {
  const facts = []
  const rate = stats.tokens_per_second ?? rateOf(stats)
  if (rate) facts.push(`${rate.toFixed(1)} tok/s`)
  if (stats.time_to_first_token != null) facts.push(`first token after ${seconds(stats.time_to_first_token)}`)
  return model ? [named(model), facts.map(each => ` · ${each}`).join("")] : [facts.join(" · ")]
}

function rateOf({ tokens, seconds, time_to_first_token: first }) {
  if (!tokens || !seconds || first == null) return null
  return tokens > 1 && seconds - first > 0.02 ? (tokens - 1) / (seconds - first) : tokens / seconds
}

function seconds(time) {
  return time < 1 ? `${Math.round(1000 * time)} ms` : `${time.toFixed(1)} s`
}
