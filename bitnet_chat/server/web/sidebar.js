// The list of conversations: by day, searched, renamed, deleted. Events: "renamed", "removed",
// "titled" (of the conversation that is open), "refused".

import { element, made } from "./html.js"
import { ask, Away } from "./server.js"

export const UNTITLED = "Untitled"
const SHOWN = 100, MOST = 1000

export class Sidebar extends EventTarget {
  constructor(node, search, confirm) {
    super()
    Object.assign(this, { node, search, confirm })
    this.open = null
    this.limit = SHOWN
    this.chats = []
    search.addEventListener("input", () => this.refresh())
    search.addEventListener("keydown", event => this.searchKey(event))
    node.addEventListener("click", event => this.clicked(event))
    node.addEventListener("keydown", event => this.key(event))
  }

  async refresh() {
    this.asking?.abort()
    const asking = (this.asking = new AbortController())
    const words = this.search.value.trim()
    const path = `/chats?limit=${this.limit}${words ? `&q=${encodeURIComponent(words)}` : ""}`
    let told
    try {
      told = await ask("GET", path, undefined, asking.signal)
    } catch (error) {
      if (error.name !== "AbortError" && !(error instanceof Away)) this.dispatchEvent(new CustomEvent("refused", { detail: error }))
      return
    }
    this.chats = told.chats
    if (!this.node.querySelector("input")) this.draw(words) // not during a rename
    const open = this.chats.find(chat => chat.id === this.open)
    if (open) this.dispatchEvent(new CustomEvent("titled", { detail: open.title }))
  }

  show(id) {
    this.open = id
    for (const item of this.node.querySelectorAll("li")) this.markOpen(item)
  }

  // `saved`: an engine continues the conversation without reading it again.
  markSaved(id, saved) {
    const chat = this.chats.find(each => each.id === id)
    if (chat) chat.saved_state = saved
    const mark = this.node.querySelector(`li[data-id="${id}"] .at-once`)
    if (mark) mark.hidden = !saved
  }

  draw(words) {
    const focused = document.activeElement?.closest?.("#list li")?.dataset.id
    const parts = []
    let day = null, list = null
    for (const chat of this.chats) {
      const its = words ? "Found" : dayOf(chat.updated)
      if (its !== day) {
        day = its
        list = element("ul")
        parts.push(element("h2", its), list)
      }
      list.append(this.item(chat))
    }
    if (!this.chats.length) parts.push(element("p", words ? "No match." : "No conversations yet.", "none"))
    if (this.chats.length === this.limit && this.limit < MOST) {
      const older = element("button", "Older conversations", "older")
      older.dataset.do = "older"
      parts.push(older)
    }
    this.node.replaceChildren(...parts)
    if (focused) this.node.querySelector(`li[data-id="${focused}"] a`)?.focus()
  }

  item(chat) {
    const item = made("chat-template"), link = item.querySelector("a"), title = chat.title || UNTITLED
    item.dataset.id = chat.id
    link.href = `#${chat.id}`
    item.querySelector(".name").textContent = title
    item.querySelector(".snippet").textContent = chat.snippet ?? ""
    item.querySelector(".at-once").hidden = !chat.saved_state
    item.querySelector(".dot").hidden = !chat.live
    item.querySelector("[data-do=rename]").setAttribute("aria-label", `Rename ${title}`)
    item.querySelector("[data-do=delete]").setAttribute("aria-label", `Delete ${title}`)
    this.markOpen(item)
    return item
  }

  markOpen(item) {
    const open = item.dataset.id === String(this.open)
    item.classList.toggle("open", open)
    if (open) item.querySelector("a")?.setAttribute("aria-current", "page")
    else item.querySelector("a")?.removeAttribute("aria-current")
  }

  clicked(event) {
    const button = event.target.closest("button")
    if (!button) return
    const item = button.closest("li")
    if (button.dataset.do === "older") {
      this.limit = Math.min(MOST, 3 * this.limit)
      this.refresh()
    } else if (button.dataset.do === "rename") this.rename(item)
    else if (button.dataset.do === "delete") this.remove(item)
  }

  key(event) {
    const links = [...this.node.querySelectorAll("li a")], at = links.indexOf(event.target)
    if (at < 0) return
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key]
    if (step) {
      event.preventDefault()
      const next = links[at + step] ?? (step < 0 ? this.search : null)
      next?.focus()
    } else if (event.key === "F2") this.rename(event.target.closest("li"))
    else if (event.key === "Delete") this.remove(event.target.closest("li"))
  }

  searchKey(event) {
    if (event.key === "ArrowDown" || event.key === "Enter") {
      event.preventDefault()
      this.node.querySelector("li a")?.focus()
    } else if (event.key === "Escape" && this.search.value) {
      event.stopPropagation()
      this.search.value = ""
      this.refresh()
    }
  }

  rename(item) {
    const id = item.dataset.id, name = item.querySelector(".name"), link = item.querySelector("a")
    const field = element("input")
    field.value = name.textContent
    field.maxLength = 200
    field.setAttribute("aria-label", "Title")
    let done = false
    const end = async save => {
      if (done) return
      done = true
      const title = field.value.trim()
      field.replaceWith(link)
      link.focus()
      if (save && title && title !== name.textContent) {
        try {
          const told = await ask("PATCH", `/chats/${id}`, { title })
          name.textContent = told.title
          this.dispatchEvent(new CustomEvent("renamed", { detail: { id, title: told.title } }))
        } catch (error) {
          this.dispatchEvent(new CustomEvent("refused", { detail: error }))
        }
      }
      this.refresh()
    }
    field.addEventListener("keydown", event => {
      if (event.isComposing) return
      event.stopPropagation()
      if (event.key === "Enter") end(true)
      if (event.key === "Escape") end(false)
    })
    field.addEventListener("blur", () => end(true))
    link.replaceWith(field)
    field.focus()
    field.select()
  }

  remove(item) {
    const { id } = item.dataset, { confirm } = this
    confirm.querySelector("p").textContent = `“${item.querySelector(".name").textContent}” cannot be restored.`
    confirm.returnValue = ""
    confirm.addEventListener("close", async () => {
      if (confirm.returnValue !== "delete") return
      try {
        await ask("DELETE", `/chats/${id}`)
      } catch (error) {
        this.dispatchEvent(new CustomEvent("refused", { detail: error }))
      }
      await this.refresh()
      this.dispatchEvent(new CustomEvent("removed", { detail: Number(id) }))
    }, { once: true })
    confirm.showModal()
  }
}

function dayOf(seconds) {
  const midnight = new Date().setHours(0, 0, 0, 0), time = 1000 * seconds, day = 86400000
  if (time >= midnight) return "Today"
  if (time >= midnight - day) return "Yesterday"
  if (time >= midnight - 6 * day) return "The last seven days"
  return new Date(time).toLocaleDateString(undefined, { month: "long", year: "numeric" })
}
