// Requests to the server, and its availability. Events: "away", "back", "key" (a key is required).

export const server = new EventTarget()

export class Refused extends Error {
  constructor(status, error) {
    super(error.message)
    this.status = status
    this.remedy = error.remedy ?? ""
  }
}

export class Away extends Error {}

const FIRST_WAIT = 1000, LONGEST_WAIT = 30000 // milliseconds

let away = false, wait = FIRST_WAIT, timer = 0

export async function ask(method, path, body, signal) {
  let response
  try {
    response = await fetch(path, {
      method, signal, cache: "no-store",
      headers: body === undefined ? {} : { "Content-Type": "application/json" },
      body: body === undefined ? undefined : JSON.stringify(body),
    })
  } catch (error) {
    if (error.name === "AbortError") throw error
    gone()
    throw new Away("The server cannot be reached.")
  }
  back()
  if (response.status === 204) return null
  const told = await response.json().catch(error => {
    if (signal?.aborted) throw error
    return null
  })
  if (response.ok) return told
  if (response.status === 401) server.dispatchEvent(new Event("key"))
  throw new Refused(response.status, told?.error ?? { message: `The server returned status ${response.status}.` })
}

// The server did not respond: asks again, with growing intervals, until it does.
export function gone() {
  if (!away) {
    away = true
    server.dispatchEvent(new Event("away"))
  }
  if (timer) return
  timer = setTimeout(tryAgain, wait)
  wait = Math.min(2 * wait, LONGEST_WAIT)
}

export async function tryAgain() {
  clearTimeout(timer)
  timer = 0
  try {
    await fetch("/health", { cache: "no-store" })
  } catch {
    gone()
    return
  }
  back()
}

function back() {
  clearTimeout(timer)
  timer = 0
  wait = FIRST_WAIT
  if (!away) return
  away = false
  server.dispatchEvent(new Event("back"))
}
