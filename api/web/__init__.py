"""The web page at `/`: rendered here, kept fresh by htmx and server-sent events, with no build step and no internet.

A page is added so (a small one is `files.py`):

1. A module `api/web/NAME.py` with `router = page_router()` and routes that end in `return render(request, "NAME.html",
   ...)`. `PageDep` is who is signed in: `visitor.key` is the `KeyStatus` that the API's routes take as their `AdminDep`
   or `CallerDep`. `AdminPageDep` refuses all but administrators. Call the functions of `api/routes` and `*_calls.py`
   directly, so that rules and errors are the API's own.
2. A template `templates/NAME.html` that extends `base.html` with the blocks `title` and `content`. `_macros.html` has
   bars, fields, states and problems. The security policy allows no inline script and no `style=` attribute: bars are
   SVG, whose `x` and `width` are attributes of their own.
3. The module in `PAGES` of `app.py`, and a line in `navigation.py`.

Forms: `<form method="post">{{ csrf() }} ...`, answered by a route that takes `form: FormDep`: what was sent, checked to
come from our own page. `checked(KeyCreate, {...})` makes one of the API's schemas of it. A `ProblemError` that a route
lets through becomes a page that says it (`problem.html`, with the problem's status). To show it beside the form, catch
it and render the form again with `problem=error` and `status=problem_status(error)`. After a change, `return
redirect(request, "/keys", "the key is revoked")`: the sentence is shown on top of the next page. htmx sends the token
by itself (`hx-post` works), and does not swap in answers above 399: answer previews with 200 and the problem in them.

Live parts: a module may have `TOPICS = {"fleet": Topic(look)}`; `look(context, argument)` returns something that is
unequal to what it was when the page is to change. `render(..., live=["fleet"])` has the browser listen
(`"deployment/smol"` looks with the argument `smol`), and a section written as

    <section {{ live("workers", "fleet", "/") }}>

has the id `workers`, and is fetched again from `/` (the part of that page with this id) whenever the topic changes.
Ids of what can have the focus, and of `<details>`, must be stable: by them both survive. Nothing is typed into inside a
live section.

Scripts and styles are files of `static/`, included with `<script src="{{ static('NAME.js') }}" defer>` in the block
`head`. Without JavaScript everything works but live updates, the playground and live logs.
"""
