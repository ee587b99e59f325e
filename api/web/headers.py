"""Headers of every answer of the web page."""

SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)

HEADERS = {
    "content-security-policy": SECURITY_POLICY,
    "x-content-type-options": "nosniff",
    # Not `no-referrer`: with it browsers send `Origin: null` with our own forms, and nothing could be told from it.
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}

NOT_KEPT = {"cache-control": "no-store"}
"""For pages: what one key saw is not for the next."""

KEPT_FOR_GOOD = {"cache-control": "public, max-age=31536000, immutable"}
"""For files that have their content's hash in their name."""
