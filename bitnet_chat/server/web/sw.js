// Caches the files of the page, so that it opens without the server. Conversations are not cached: responses of the
// APIs do not pass through the cache.

const CACHE = "bitnet-chat-page"
const SHELL = [
  new Request("/", { headers: { Accept: "text/html" } }), "/manifest.webmanifest",
  ...["page.css", "reply.css", "theme.js", "page.js", "choice.js", "composer.js", "clipboard.js", "html.js", "listing.js", "local_storage.js",
    "message.js", "server.js", "sidebar.js", "thread.js", "icon.svg", "icon-192.png", "icon-512.png", "icon-maskable.png"].map(name => `/page/${name}`),
]

addEventListener("install", event => {
  skipWaiting()
  event.waitUntil(caches.open(CACHE).then(cache => cache.addAll(SHELL)))
})

addEventListener("activate", event => event.waitUntil(clients.claim()))

addEventListener("fetch", event => {
  const { request } = event, url = new URL(request.url)
  if (request.method !== "GET" || url.origin !== location.origin) return
  if (url.pathname === "/" && request.mode !== "navigate") return
  if (url.pathname !== "/" && url.pathname !== "/manifest.webmanifest" && !url.pathname.startsWith("/page/")) return
  event.respondWith(fresh(request, url.pathname))
})

// From the server if it is available, else from the cache.
async function fresh(request, path) {
  const cache = await caches.open(CACHE)
  try {
    const response = await fetch(request)
    if (response.ok) await cache.put(path, response.clone())
    return response
  } catch (error) {
    const kept = await cache.match(path)
    if (kept) return kept
    throw error
  }
}
