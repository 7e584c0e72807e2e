// The open conversation: its messages, and the events of the server.
// Events: "start", "end", "rate", "usage", "titled", "saved" (the state of the engine, or not), "deleted".

import { Choice, forget, pending } from "./choice.js"
import { Reply, UserMessage } from "./message.js"
import { ask, gone, Refused } from "./server.js"

const NEAR = 60 // pixels from the end that count as the end
const PAINTED = 24 // messages at the end that are always laid out

export class Thread extends EventTarget {
  constructor(node, scroller, toEnd, spoken) {
    super()
    Object.assign(this, { node, scroller, toEnd, spoken })
    this.id = null
    this.messages = []
    this.reply = null // the running one; a Choice of several
    this.focused = null // the place of a message and the direction of its button, across a switch of branches
    this.follows = true
    this.top = this.height = 0 // of the scroller, at the last look
    this.away = false
    scroller.addEventListener("scroll", () => this.scrolled(), { passive: true })
    toEnd.addEventListener("click", () => this.showEnd())
    new ResizeObserver(() => this.stick()).observe(node)
    new ResizeObserver(() => this.stick()).observe(scroller)
  }

  get answering() {
    return this.reply !== null
  }

  // The choice that is not made yet.
  get choice() {
    const last = this.messages.at(-1)
    return last instanceof Choice ? last : null
  }

  // Shows a conversation (null: none) and follows its events. Returns the response of the server. The events are
  // followed before the request, so that none is missed between the two.
  async open(id) {
    this.close(id === this.id)
    this.id = id
    if (id === null) return null
    this.follow()
    return new Promise((resolve, reject) => { this.loading = { resolve, reject, events: [] } })
  }

  async load() {
    const { id, loading } = this
    loading.asked = true
    try {
      const told = await ask("GET", `/chats/${id}?render=html`)
      const beside = told.live ? null : await this.besideOf(told)
      if (this.loading !== loading) return loading.resolve(null)
      this.loading = null
      this.away = false
      this.take(told)
      if (beside) this.putBeside(beside)
      if (told.title) this.tell("titled", told.title)
      this.tell("saved", told.saved_state)
      for (const [take, detail] of loading.events) take.call(this, detail)
      loading.resolve(told)
    } catch (error) {
      if (this.loading === loading) {
        this.loading = null
        this.stopFollowing()
        this.away = true
      }
      loading.reject(error)
    }
  }

  stopFollowing() {
    this.events?.close()
    this.events = null
  }

  // `stays`: the messages remain until the new ones are loaded.
  close(stays = false) {
    this.stopFollowing()
    this.loading?.resolve(null)
    this.loading = null
    this.id = null
    this.setReply(null)
    if (stays) return
    this.follows = true
    this.messages = []
    this.node.replaceChildren()
  }

  // The replies that this browser has shown side by side before the page was loaded, if none was chosen.
  async besideOf({ id, messages }) {
    const last = messages.at(-1), kept = pending(id)
    if (!kept || !kept.rows.every(row => last?.siblings.includes(row))) {
      forget(id)
      return null
    }
    const replies = (await Promise.all(kept.rows.map(row => this.stored(row)))).filter(Boolean)
    return replies.length > 1 ? { ...kept, replies } : null
  }

  // A reply of any branch; null for another kind of message.
  async stored(row) {
    const told = await ask("GET", `/chats/${this.id}?render=html&message=${row}`), last = told.messages.at(-1)
    return last?.role === "assistant" ? Reply.of(last) : null
  }

  putBeside({ replies, compared, blind }) {
    const earlier = replies.find(reply => reply.id === compared) ?? null
    const choice = new Choice(this.id, replies.filter(reply => reply !== earlier), { compared: earlier, blind })
    this.messages.splice(-1, 1, choice)
    this.node.replaceChildren(...this.messages.map(message => message.node))
    this.mark()
    this.stick()
  }

  // Shows all variants of the last reply side by side.
  async showBeside() {
    const { id, messages } = this, last = messages.at(-1)
    const replies = (await Promise.all(last.siblings.map(row => this.stored(row)))).filter(Boolean)
    if (replies.length > 1 && this.id === id && this.messages === messages && !this.answering) this.putBeside({ replies })
  }

  take(told) {
    const shown = told.messages.filter(each => each.role === "user" || each.role === "assistant")
    for (const each of told.passed_over) { // ids grow along a conversation
      const behind = shown.findIndex(other => other.id === null || other.id > each.id)
      shown.splice(behind < 0 ? shown.length : behind, 0, each)
    }
    const { focused } = this
    this.focused = null
    this.setReply(null)
    this.messages = shown.map(each => (each.role === "user" ? new UserMessage(each.id, each.content) : Reply.of(each)))
    this.messages.forEach((message, index) => { message.variants = shown[index] })
    this.judge(told.votes)
    this.node.replaceChildren(...this.messages.map(message => message.node))
    if (focused) this.messages[focused.place]?.focus(focused.by)
    const last = this.messages.at(-1)
    if (told.live && last?.role === "assistant") {
      this.generation = told.live.generation
      last.partly = true // the beginning of a continued reply is not known separately
      this.setReply(last)
    }
    if (!told.live && told.state === "unanswered") this.unanswered()
    this.mark()
    this.stick()
    const used = shown.findLast(each => each.stats?.context_used != null)?.stats
    this.tell("usage", used ? [used.context_used, used.context_size, used.exact] : [null, null])
  }

  follow() {
    const events = (this.events = new EventSource(`/chats/${this.id}/events?follow=1&render=html`))
    const on = (name, take) => events.addEventListener(name, event => {
      if (this.events !== events) return
      const detail = JSON.parse(event.data)
      if (this.loading && name !== "chat") this.loading.events.push([take, detail])
      else take.call(this, detail)
    })
    on("start", this.started)
    on("html", told => this.target(told)?.show(told.block, told.html))
    on("html", this.speak)
    on("chunk", told => { this.grow(told) })
    on("thinking", told => { this.target(told)?.think(told.text); this.count() })
    on("tool_call", told => this.target(told)?.call(told.id, told.name, told.arguments))
    on("notice", told => this.target(told)?.note(told.text))
    on("complete", this.completed)
    on("chat", this.changed)
    on("saved_state", told => this.tell("saved", told.saved_state))
    events.addEventListener("open", () => { this.opened = true })
    events.addEventListener("error", event => {
      if (this.events !== events) return
      if (event.data === undefined) this.broke(events)
      else if (this.loading) this.loading.events.push([this.failed, JSON.parse(event.data)])
      else this.failed(JSON.parse(event.data)) // the event "error" of the server
    })
  }

  // The connection broke. The browser reconnects by itself, unless the request was refused.
  broke(events) {
    if (this.loading) {
      if (!this.loading.asked) this.load() // shows the error
      return
    }
    this.away = true
    if (events.readyState === EventSource.CLOSED) this.stopFollowing()
    gone()
  }

  // The server is available again, possibly another one: loads the conversation from it.
  async catchUp() {
    const { id, events } = this
    if (id === null) return
    this.away = false
    const told = await ask("GET", `/chats/${id}`).catch(error => error)
    if (this.id !== id || this.events !== events || this.loading) return
    if (told instanceof Refused && told.status === 404) {
      this.tell("deleted", id)
      return
    }
    if (told instanceof Error) {
      this.away = true
      return
    }
    this.tell("saved", told.saved_state)
    if (events && this.reply && told.live?.generation === this.generation) return // the reply continued meanwhile
    const ended = this.messages.at(-1)?.finish != null && told.live === null
    if (events && !this.reply && ended && told.messages.at(-1)?.id === this.messages.at(-1)?.id) return
    await this.open(id).catch(() => {})
  }

  // Events of the server

  // The running reply that an event belongs to.
  target({ variant }) {
    return this.reply instanceof Choice ? this.reply.target(variant) : this.reply
  }

  started({ generation, model, user, message, continues, parent, variant, variants, compare }) {
    if (variant > 0) { // the first one has made a place for all
      if (this.choice) this.choice.begin(variant, message, model)
      return
    }
    if (variants === 1 && !compare) forget(this.id)
    const kept = this.placeBehind(parent)
    const before = this.messages.slice(kept)
    this.replaces = before.length > 0
    let messages = this.messages.slice(0, kept)
    if (user) {
      const known = before.find(each => each.role === "user" && each.id === user.id && each.content === user.content)
      messages.push(known ?? new UserMessage(user.id, user.content))
    }
    const replies = before.flatMap(each => (each instanceof Choice ? each.shown : [each])).filter(each => each.role === "assistant")
    let reply
    if (variants > 1 || compare) {
      reply = this.begunChoice(variants, compare, replies)
      reply.begin(0, message, model)
    } else {
      const [old] = replies
      reply = old && (continues || old.id === message) ? old : new Reply(message)
      reply.unknown = continues && (reply.partly || old === undefined)
      reply.begin(message, continues && !reply.unknown)
    }
    messages.push(reply)
    this.messages = messages
    this.node.replaceChildren(...messages.map(each => each.node))
    this.generation = generation
    this.times = []
    this.said = 0
    this.setReply(reply)
    this.mark()
    if (user && !before.includes(messages.at(-2))) this.showEnd()
    this.stick()
  }

  // `compare`: { message, blind } of the reply that is compared with the new one; null: the new ones are variants.
  // `known`: the replies on the page.
  begunChoice(variants, compare, known) {
    const replies = Array.from({ length: variants }, () => new Reply(null))
    if (!compare) return new Choice(this.id, replies)
    const earlier = known.find(each => each.id === compare.message) ?? new Reply(compare.message)
    const choice = new Choice(this.id, replies, { compared: earlier, blind: compare.blind })
    if (earlier.finish === null) this.stored(compare.message).then(reply => reply && choice.replaceCompared(reply), () => {})
    return choice
  }

  // Number of messages up to the one with this id. That one may be a tool result, which is not shown; ids grow along a
  // conversation.
  placeBehind(id) {
    if (id === null) return 0
    const behind = this.messages.findIndex(each => each.id === null || each.id > id)
    return behind < 0 ? this.messages.length : behind
  }

  grow(told) {
    const reply = this.target(told)
    if (!reply) return
    reply.content += told.text
    this.count()
    this.stick()
  }

  // Pieces per second, which are not always tokens. The first is not counted: it may be all text before this page connected.
  count() {
    const now = performance.now()
    this.times ??= []
    this.times.push(now)
    if (this.times.length > 60) this.times.splice(1, this.times.length - 60)
    const span = now - this.times[1]
    if (this.times.length > 4 && span > 300) this.tell("rate", ((this.times.length - 2) / span) * 1000)
  }

  completed(told) {
    const reply = this.target(told)
    if (!reply) return
    if (told.message === null) {
      reply.stopped(told.finish_reason, told.model)
    } else {
      reply.end(told.finish_reason, told.model, told)
    }
    if (told.context_used != null) this.tell("usage", [told.context_used, told.context_size, told.exact])
    this.overWith(reply, told.message)
    if (reply.unknown) this.fill(reply)
  }

  failed(told) {
    const reply = this.target(told)
    if (!reply) return
    reply.fail(told.error, told.finish_reason, told.message !== null)
    this.overWith(reply, told.message)
  }

  // One reply has ended. `message`: its id; null: it is not stored.
  overWith(reply, message) {
    if (this.reply instanceof Choice) {
      reply.id = message
      if (!this.reply.ended) return this.stick()
    }
    this.over()
  }

  over() {
    this.speakRest()
    this.setReply(null)
    this.mark()
    this.stick()
    if (this.replaces) this.countVariants()
  }

  // The places of all messages among their variants, after a reply that has replaced a message.
  async countVariants() {
    const { id } = this
    const told = await ask("GET", `/chats/${id}`).catch(() => null)
    if (this.id !== id || told === null) return
    const known = new Map([...told.messages, ...told.passed_over].map(each => [each.id, each]))
    for (const message of this.messages) message.variants = known.get(message.id)
    this.judge(told.votes)
    this.stick()
  }

  // Shows the last choice between each reply and others.
  judge(votes) {
    for (const message of this.messages) {
      if (message instanceof Reply) message.verdict = votes.findLast(vote => vote.replies.some(each => each.message === message.id)) ?? null
    }
  }

  // Also the first event of each connection: no event is missed after it, and missed ones are detected by it.
  changed({ title, deleted, head }) {
    if (this.loading) {
      if (!this.loading.asked) this.load()
      else if (head) this.loading.events.push([this.changed, { title, deleted, head }])
      return
    }
    if (head && !this.reply) { // another branch is the current one
      forget(this.id)
      this.open(this.id).catch(() => {})
      return
    }
    const missed = this.opened && (this.away || this.reply)
    this.opened = false
    if (missed && !deleted) this.catchUp()
    if (deleted) this.tell("deleted", this.id)
    else if (title) this.tell("titled", title)
  }

  // The text of a reply of which this page has no beginning.
  async fill(reply) {
    const told = await ask("GET", `/chats/${this.id}`).catch(() => null)
    const found = told?.messages.find(each => each.id === reply.id)
    if (found) reply.content = found.content
  }

  // The last message has no reply: the server ended, or the reply failed.
  unanswered() {
    const reply = new Reply(null)
    reply.miss()
    this.messages.push(reply)
    this.node.append(reply.node)
  }

  // The text for screen readers: each block when the next one begins, and the last one at the end.
  speak({ block }) {
    if (block <= this.said || this.reply instanceof Choice) return
    this.spoken.textContent = this.blocksText(this.said, block)
    this.said = block
  }

  speakRest() {
    if (!this.reply) return
    if (this.reply instanceof Choice) {
      this.spoken.textContent = "All replies are complete. Choose the one to continue with."
      return
    }
    const { blocks } = this.reply
    const outcome = this.reply.node.querySelector(".outcome")
    this.spoken.textContent = `${this.blocksText(this.said, blocks.length)} ${outcome.hidden ? "" : outcome.textContent}`
  }

  blocksText(first, behind) {
    const blocks = this.reply?.blocks.slice(first, behind) ?? []
    return blocks.filter(Boolean).map(block => block.textContent).join(" ")
  }

  // Scrolling

  setReply(reply) {
    const before = this.reply
    if (before && before !== reply) before.live = false
    this.reply = reply
    if (reply) reply.live = true
    if (!reply) this.generation = null
    if (Boolean(before) !== Boolean(reply)) this.tell(reply ? "start" : "end")
  }

  mark() {
    const behind = this.messages.length - PAINTED
    this.messages.forEach((message, index) => {
      message.node.classList.toggle("last", index === this.messages.length - 1)
      message.node.classList.toggle("far", index < behind)
      if (message.role === "user") message.passedOver = this.messages[index + 1]?.role === "user"
    })
  }

  get atEnd() {
    const { scrollHeight, clientHeight, scrollTop } = this.scroller
    return scrollHeight - clientHeight - scrollTop < NEAR
  }

  // After scrolling up, the view does not follow new text until it is at the end again.
  scrolled() {
    const { scrollTop, scrollHeight } = this.scroller
    if (scrollTop < this.top && scrollHeight >= this.height) this.follows = false
    else if (scrollTop > this.top && this.atEnd) this.follows = true
    this.top = scrollTop
    this.height = scrollHeight
    this.toEnd.hidden = this.atEnd
  }

  showEnd() {
    this.follows = true
    this.stick()
  }

  stick() {
    if (this.follows) this.scroller.scrollTop = this.scroller.scrollHeight
    this.toEnd.hidden = this.atEnd
  }

  tell(name, detail) {
    this.dispatchEvent(new CustomEvent(name, { detail }))
  }
}
