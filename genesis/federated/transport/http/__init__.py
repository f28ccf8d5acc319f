"""Clients on other machines, over HTTP: read `hub`, then `app` (the server), then `connection`.

- `hub`: who is there, what each is asked, what came back; no network
- `tokens`: who may ask
- `app`: the routes
- `listener`: a web server in a thread, with TLS and limits
- `transport`: the server's end, `Transport` over all of these
- `connection`: the client's end
- `page`: what an operator sees in a browser
- `metrics`: what a monitoring system sees
"""
