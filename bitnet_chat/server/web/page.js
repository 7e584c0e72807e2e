// The page: selects the open conversation, and connects its parts. The address has the conversation: "#12" is
// conversation 12, "#new" or an empty fragment is a new one.

import { forget } from "./choice.js"
import { Composer } from "./composer.js"
import { copy } from "./clipboard.js"
import { element, named, readable, workerUrl } from "./html.js"
import { keep, recall } from "./local_storage.js"
import { textOf } from "./listing.js"
import { saidOf } from "./message.js"
import { ask, Away, Refused, server, tryAgain } from "./server.js"
import { Sidebar, UNTITLED } from "./sidebar.js"
import { Thread } from "./thread.js"

const $ = id => document.getElementById(id)
const thread = new Thread($("thread"), $("scroller"), $("to-end"), $("spoken"))
const composer = new Composer($("composer"))
const sidebar = new Sidebar($("list"), $("search"), $("confirm"))
const tabs = "BroadcastChannel" in globalThis ? new BroadcastChannel("bitnet-chat") : null
const narrow = matchMedia("(max-width: 48rem)")
const MOST_BESIDE = 8 // replies side by side
const ROUTER = "auto" // the name by which the server chooses a model
let models = []
const asking = new Set() // conversations with a request that the server has not confirmed yet

// The open conversation

function placeIn(address) {
  return /^#[1-9]\d*$/.test(address) ? Number(address.slice(1)) : null
}

async function go() {
  const id = placeIn(location.hash)
  closeDrawer()
  if (id !== null && id === thread.id) return
  composer.open(id ?? "new")
  composer.busy = asking.has(composer.place)
  sidebar.show(id)
  setTitle(null)
  $("at-once").hidden = true
  usage([null, null])
  try {
    const told = await thread.open(id)
    if (placeIn(location.hash) !== id) return
    if (told) {
      setTitle(told.title)
      chooseModel(told.model)
    } else chooseModel(recall("model"))
  } catch (error) {
    if (placeIn(location.hash) !== id) return
    if (error instanceof Refused && error.status === 404) {
      toast("The conversation no longer exists.")
      location.replace("#new")
    } else complain(error)
  }
  drawEmpty()
  if (!narrow.matches && !document.querySelector("dialog[open]")) composer.area.focus()
}

// `title`: "" for a conversation without a title, null for one that is not loaded yet.
function setTitle(title) {
  const none = placeIn(location.hash) === null ? "New conversation" : UNTITLED
  $("title").textContent = title || (title === null && none === UNTITLED ? "…" : none)
  document.title = title ? `${title} · bitnet-chat` : "bitnet-chat"
}

function drawEmpty() {
  const empty = placeIn(location.hash) === null
  $("empty").hidden = !empty
  $("thread").hidden = empty
  if (empty) $("to-end").hidden = true
}

// Requests

async function send(content) {
  const model = $("model").value, edit = composer.editing?.id, from = composer.place
  let id = thread.id
  setAsking(from, true)
  try {
    if (id === null) {
      const system = $("system").value.trim()
      const chat = await ask("POST", "/chats", { ...(system && { system }), ...(models.length > 1 && { model }) })
      id = chat.id
      composer.moved(from, id, content) // the draft of this conversation until it is sent
      $("system").value = ""
      if (composer.place === id) { // not if another conversation was opened meanwhile
        history.replaceState(null, "", `#${id}`)
        setAsking(id, true)
        sidebar.show(id)
        await thread.open(id)
        drawEmpty()
      }
    }
    await ask("POST", `/chats/${id}/messages`, {
      content, stream: false,
      ...(edit !== undefined && { edit }),
      ...(models.length > 1 && { model }),
    })
    composer.sent(id, content, edit)
    listChanged()
  } catch (error) {
    complain(error)
  } finally {
    setAsking(from, false)
    setAsking(id, false)
  }
}

async function again(body) {
  const { id } = thread, model = $("model").value
  if (id === null || thread.answering || asking.has(id)) return
  setAsking(id, true)
  try {
    await ask("POST", `/chats/${id}/messages`, { ...(models.length > 1 && { model }), ...body, stream: false })
  } catch (error) {
    complain(error)
  } finally {
    setAsking(id, false)
  }
}

// Shows another variant of a message, with the branch below it. The event of the server changes all pages.
async function switchTo(message, by) {
  const { id } = thread, variant = message.beside(by)
  if (id === null || variant === undefined || thread.answering || asking.has(id)) return
  thread.focused = { place: thread.messages.indexOf(message), by }
  try {
    await ask("POST", `/chats/${id}/head`, { message: variant })
    listChanged()
  } catch (error) {
    thread.focused = null
    complain(error)
  }
}

// Several replies side by side: the branch through the chosen one becomes the current one on all pages. `reply` null: no
// reply is better.
async function choose(reply) {
  const { id, choice } = thread
  if (!choice || choice.isMade || thread.answering || (reply && reply.id === null)) return
  const { rows, compared, blind } = choice
  choice.isMade = true
  setAsking(id, true)
  forget(id)
  try {
    if (compared && !rows.includes(null)) {
      const told = await ask("POST", `/chats/${id}/votes`, { replies: rows, chosen: reply?.id ?? null, blind })
      sayVote(told.votes.at(-1))
    }
    await ask("POST", `/chats/${id}/head`, { message: (reply ?? compared).id })
    if (thread.choice === choice) await thread.open(id)
    listChanged()
    composer.area.focus()
  } catch (error) {
    choice.isMade = false
    choice.remember()
    complain(error)
  } finally {
    setAsking(id, false)
  }
}

function sayVote({ replies, chosen }) {
  const names = replies.map(each => readable(each.model || "another reply")), won = replies.findIndex(each => each.message === chosen)
  $("spoken").textContent = won < 0 ? `Neither: ${names.join(", ")}.` : `Chosen: ${names[won]}. Not chosen: ${names.filter((_, index) => index !== won).join(", ")}.`
}

async function stop() {
  if (thread.id === null || !composer.answering) return
  try {
    await ask("POST", `/chats/${thread.id}/stop`, {})
  } catch (error) {
    complain(error)
  }
}

function setAsking(place, value) {
  if (value) asking.add(place)
  else asking.delete(place)
  setBusy()
}

function setBusy() {
  composer.busy = asking.has(composer.place) || thread.answering
}

function lastOf(role) {
  return thread.messages.findLast(message => message.role === role)
}

// Messages to the user

let toastTimer = 0

function toast(text) {
  clearTimeout(toastTimer)
  $("toast").textContent = text
  $("toast").hidden = false
  toastTimer = setTimeout(() => { $("toast").hidden = true }, 8000)
}

function complain(error) {
  if (error instanceof Away || (error instanceof Refused && error.status === 401)) return // shown elsewhere
  toast(saidOf(error))
}

function usage([used, size, exact]) {
  const shown = used != null && size
  $("context").hidden = !shown
  if (!shown) return
  const [meter, words] = $("context").children
  meter.max = size
  meter.value = used
  words.textContent = `${exact ? "" : "~"}${used.toLocaleString("en")} of ${size.toLocaleString("en")} tokens`
  $("context").classList.toggle("full", used > 0.8 * size)
}

async function loadModels() {
  const [told, health] = await Promise.all([ask("GET", "/v1/models"), fetch("/health").then(response => response.json())])
  models = told.data.map(model => model.id)
  $("model").replaceChildren(...models.map(name => new Option(readable(name), name)))
  $("model").disabled = models.length < 2
  chooseModel(recall("model"))
  showHealth(health)
}

function showHealth({ model, state, version }) {
  const words = { starting: "is being loaded. You can write already.", dead: "has died; the next message starts it again." }
  $("server-state").textContent = `bitnet-chat ${version}`
  $("empty-state").textContent = `${model} ${words[state] ?? "is ready."}`
}

function chooseModel(name) {
  if (models.includes(name)) $("model").value = name
  else if (models.length) $("model").value = models[0]
}

function listChanged() {
  sidebar.refresh()
  tabs?.postMessage("list")
}

// The parts

thread.addEventListener("start", () => {
  setBusy()
  $("rate").textContent = ""
  sidebar.refresh()
  if (document.activeElement === document.body) thread.choice?.node.focus({ preventScroll: true }) // from the menu
})
thread.addEventListener("end", () => { setBusy(); $("rate").textContent = ""; listChanged() })
thread.addEventListener("rate", ({ detail }) => { $("rate").textContent = `~${detail.toFixed(1)} tok/s` })
thread.addEventListener("usage", ({ detail }) => usage(detail))
thread.addEventListener("titled", ({ detail }) => setTitle(detail))
thread.addEventListener("saved", ({ detail }) => { $("at-once").hidden = !detail; sidebar.markSaved(thread.id, detail) })
thread.addEventListener("deleted", ({ detail }) => leave(detail))
sidebar.addEventListener("titled", ({ detail }) => setTitle(detail))
sidebar.addEventListener("removed", ({ detail }) => { leave(detail); tabs?.postMessage("list") })
sidebar.addEventListener("renamed", () => tabs?.postMessage("list"))
sidebar.addEventListener("refused", ({ detail }) => (detail instanceof Away ? toast(`${detail.message} Nothing was changed.`) : complain(detail)))
composer.addEventListener("send", ({ detail }) => send(detail))
composer.addEventListener("stop", stop)
composer.addEventListener("recall", () => { const last = lastOf("user"); if (last) composer.edit(last) })
tabs?.addEventListener("message", () => sidebar.refresh())

function leave(id) {
  keep(`draft:${id}`, "")
  if (placeIn(location.hash) !== id) return
  toast("The conversation was deleted.")
  location.hash = "#new"
}

$("thread").addEventListener("click", event => {
  const button = event.target.closest("[data-do]"), message = button?.closest(".message")?.message
  if (!button) return
  closeMenu(button.closest(".menu"))
  if (button.dataset.do === "copy-code") copy(textOf(button.closest(".listing")), button)
  else if (button.dataset.do === "copy") copy(message.content, button)
  else if (button.dataset.do === "edit" && !thread.answering) composer.edit(message)
  else if (["regenerate", "retry"].includes(button.dataset.do)) again({ regenerate: true })
  else if (button.dataset.do === "continue") again({ continue: true })
  else if (button.dataset.do === "variants") again({ regenerate: true, variants: Number(button.dataset.count) })
  else if (button.dataset.do === "compare") {
    again({ regenerate: true, compare: true, blind: button.closest(".menu").querySelector("input").checked, model: button.value })
  } else if (button.dataset.do === "beside") thread.showBeside().catch(complain)
  else if (button.dataset.do === "choose") choose(button.closest(".column").reply)
  else if (button.dataset.do === "choose-none") choose(null)
  else if (button.dataset.do === "previous") switchTo(message, -1)
  else if (button.dataset.do === "next") switchTo(message, 1)
})
// The menu of a reply

$("thread").addEventListener("toggle", event => {
  const menu = event.target.closest(".menu")
  if (menu?.open) fillMenu(menu, menu.closest(".message").message)
}, true)
$("thread").addEventListener("focusout", event => {
  const menu = event.target.closest(".menu")
  if (menu && event.relatedTarget && !menu.contains(event.relatedTarget)) closeMenu(menu)
})
document.addEventListener("pointerdown", event => {
  for (const menu of document.querySelectorAll(".menu[open]")) if (!menu.contains(event.target)) closeMenu(menu)
})

function fillMenu(menu, reply) {
  const others = menu.querySelector(".comparisons")
  menu.querySelector("[data-do=beside]").hidden = !(reply.siblings?.length > 1 && reply.siblings.length <= MOST_BESIDE)
  const names = models.filter(name => name !== reply.model && name !== ROUTER)
  others.hidden = !names.length
  if (!names.length) return
  const blind = Object.assign(element("input"), { type: "checkbox", checked: others.querySelector("input")?.checked ?? true })
  const label = element("label")
  label.append(blind, "Hide the models until the choice")
  others.replaceChildren(label, ...names.map(name => {
    const button = Object.assign(element("button", "Compare with "), { type: "button", value: name })
    button.dataset.do = "compare"
    button.append(named(name))
    return button
  }))
}

function closeMenu(menu) {
  if (menu) menu.open = false
}

$("new-chat").addEventListener("click", newChat)
$("model").addEventListener("change", () => keep("model", $("model").value))
$("away").querySelector("button").addEventListener("click", tryAgain)

function newChat() {
  if (location.hash && location.hash !== "#new") location.hash = "#new"
  closeDrawer()
  composer.area.focus()
}

// The drawer of a narrow window

function openDrawer() {
  document.body.classList.add("drawer-open")
  $("scrim").hidden = false
  $("open-drawer").setAttribute("aria-expanded", "true")
  $("main").inert = true
  $("close-drawer").focus()
}

function closeDrawer() {
  if (!document.body.classList.contains("drawer-open")) return
  document.body.classList.remove("drawer-open")
  $("scrim").hidden = true
  $("open-drawer").setAttribute("aria-expanded", "false")
  $("main").inert = false
  $("open-drawer").focus()
}

$("open-drawer").addEventListener("click", openDrawer)
$("close-drawer").addEventListener("click", closeDrawer)
$("scrim").addEventListener("click", closeDrawer)
narrow.addEventListener("change", closeDrawer)

// Keys

const isMac = /Mac|iPhone|iPad/.test(navigator.platform)
$("search-key").textContent = isMac ? "⌘ K" : "Ctrl K"

addEventListener("keydown", event => {
  if ((isMac ? event.metaKey : event.ctrlKey) && !event.shiftKey && !event.altKey && event.key.toLowerCase() === "k") {
    event.preventDefault()
    if (document.querySelector("dialog[open]")) return
    if (document.activeElement === $("search")) {
      newChat()
      return
    }
    if (narrow.matches) openDrawer()
    $("search").focus()
    $("search").select()
  } else if (/^\d$/.test(event.key) && thread.choice && !event.ctrlKey && !event.metaKey && !event.altKey && !typesInto(event.target)) {
    const number = Number(event.key)
    if (number ? number <= thread.choice.shown.length : thread.choice.compared) choose(number ? thread.choice.shown[number - 1] : null)
  } else if (event.key === "Escape" && document.querySelector(".menu[open]")) {
    const menu = document.querySelector(".menu[open]")
    closeMenu(menu)
    menu.querySelector("summary").focus()
  } else if (event.key === "Escape" && !event.isComposing && !document.querySelector("dialog[open]")) {
    if (document.body.classList.contains("drawer-open")) closeDrawer()
    else if (composer.answering) stop()
    else if (document.activeElement === $("search")) composer.area.focus()
  }
})

function typesInto(target) {
  return target.matches?.("input, textarea, select")
}

// The theme

function isDark() {
  const { theme } = document.documentElement.dataset
  return theme ? theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches
}

function drawTheme() {
  $("theme").setAttribute("aria-label", isDark() ? "Light colours" : "Dark colours")
  $("theme").title = isDark() ? "Light colours" : "Dark colours"
  $("theme").querySelector("use").setAttribute("href", isDark() ? "#i-light" : "#i-dark")
}

$("theme").addEventListener("click", () => {
  const theme = isDark() ? "light" : "dark", system = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light"
  if (theme === system) delete document.documentElement.dataset.theme
  else document.documentElement.dataset.theme = theme
  keep("theme", theme === system ? "" : theme)
  drawTheme()
})
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawTheme)

// The server

server.addEventListener("away", () => { $("away").hidden = false })
server.addEventListener("back", () => { $("away").hidden = true; start() })
let loggedIn = true // until a request is refused
server.addEventListener("key", () => {
  if ($("login").open) return
  loggedIn = false
  $("key").value = ""
  $("login").showModal()
})
$("login").addEventListener("cancel", event => event.preventDefault())
$("login").addEventListener("close", () => { if (!loggedIn) $("login").showModal() }) // a browser may close a modal dialog anyway
$("login").querySelector("form").addEventListener("submit", async event => {
  event.preventDefault()
  const response = await fetch("/login", {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ key: $("key").value }),
  }).catch(() => null)
  if (response?.ok) {
    $("login-error").textContent = ""
    loggedIn = true
    $("login").close()
    start()
    return
  }
  const told = await response?.json().catch(() => null)
  $("login-error").textContent = told?.error ? saidOf({ message: told.error.message }) : "The server cannot be reached."
  $("key").select()
})

// A hidden tab keeps no connection, unless its reply is running: a browser opens six connections to one server at most.
document.addEventListener("visibilitychange", () => {
  if (document.hidden) {
    if (!thread.answering && !thread.loading) thread.stopFollowing()
    return
  }
  sidebar.refresh()
  if (thread.id !== null && !thread.events) thread.open(thread.id).catch(complain)
})

async function start() {
  try {
    await loadModels()
    sidebar.refresh()
    if (thread.id === null) await go()
    else if (thread.away || !thread.events) await thread.catchUp()
  } catch (error) {
    complain(error)
    drawEmpty()
  }
}

addEventListener("hashchange", go)
drawTheme()
composer.open(placeIn(location.hash) ?? "new")
drawEmpty()
start()

if (navigator.serviceWorker && isSecureContext) navigator.serviceWorker.register(workerUrl()).catch(() => {})
