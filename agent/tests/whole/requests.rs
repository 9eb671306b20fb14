//! Requests as nobody honest sends them, made up by dice: lines, heads and lengths that are no HTTP, bodies that are no settings, queries that are no
//! limits, and bytes of other protocols. What is in no doubt about each is said beside it.

use crate::dice::Dice;

/// Paths of both listeners that only look, and whether 503 is an answer of theirs.
const READ: &[(&str, bool)] = &[
    ("/", true),
    ("/primary", true),
    ("/replica", true),
    ("/read-only-quorum", true),
    ("/readiness", true),
    ("/patroni", false),
    ("/cluster", false),
    ("/history", false),
    ("/why", false),
    ("/metrics", false),
    ("/parameters", false),
    ("/slots", false),
    ("/activity", true),
    ("/transitions", false),
    ("/openapi.json", false),
    ("/v1/transitions", false),
    ("/v1/actions/s-1", false),
    ("/v1/actions/x/events", false),
    ("/gate/migrate", true),
    ("/no/such/path", false),
];
/// What takes a body.
const VERBS: &[(&str, &str)] = &[
    ("POST", "/switchover"),
    ("POST", "/failover"),
    ("POST", "/restart"),
    ("POST", "/reinitialize"),
    ("PATCH", "/config"),
    ("PUT", "/config"),
    ("POST", "/v1/switchover"),
    ("POST", "/v1/failover"),
    ("POST", "/v1/restart"),
    ("POST", "/v1/reinitialize"),
    ("POST", "/v1/pause"),
    ("POST", "/v1/resume"),
    ("POST", "/promise"),
];
const LINES: &[&str] = &[
    "GET",
    "GET /cluster",
    "GET  /cluster HTTP/1.1",
    "GET /cluster HTTP/9.9",
    "GET /cluster HTTP/1.1 HTTP/1.1",
    "GET /pri mary HTTP/1.1",
    "GET primary HTTP/1.1",
    "GET ? HTTP/1.1",
    "GET //// HTTP/1.1",
    "GET /../../etc/passwd HTTP/1.1",
    "GET /%00%ff%zz HTTP/1.1",
    "GET /v1/actions/%FF%FE HTTP/1.1",
    "GET http:// HTTP/1.1",
    "GET http://[::1 HTTP/1.1",
    "GET http://a:99999/cluster HTTP/1.1",
    "OPTIONS * HTTP/1.1",
    "CONNECT 10.0.0.1:22 HTTP/1.1",
    "G\u{0}T /cluster HTTP/1.1",
    "GET /\u{7f} HTTP/1.1",
    "\u{1b}[2J GET /cluster HTTP/1.1",
    "PRI * HTTP/2.0\r\n\r\nSM",
    "SSH-2.0-OpenSSH_9.2",
    "EHLO mail.example.org",
    "*1\r\n$4\r\nPING",
    "\u{0}\u{0}\u{0}\u{8}\u{4}\u{d2}\u{16}\u{2f}",
];
const HEADS: &[&str] = &[
    "no colon at all",
    ": no name",
    "A b: c",
    "X: \u{0}",
    "X: a\r\n folded",
    "Host: a\r\nHost: b",
    "Content-Length: -1",
    "Content-Length: 5, 5",
    "Content-Length: 99999999999999999999999",
    "Content-Length: 3\r\nContent-Length: 4",
    "Content-Length: 0x10",
    "Content-Length: 4\r\nTransfer-Encoding: chunked",
    "Transfer-Encoding: gzip",
    "Transfer-Encoding: chunked, chunked",
    "Transfer-Encoding: xchunked",
    "Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAAQAAP__",
    "Expect: the unexpected",
    "Range: bytes=-1",
    "Authorization: Bearer",
    "Authorization: Bearer \u{ff}\u{ff}",
    "Authorization: Basic %%%",
    "Authorization: Bearer a\r\nAuthorization: Bearer b",
];
const CHUNKS: &[&str] = &[
    "zz\r\n{}\r\n0\r\n\r\n",
    "-1\r\n{}\r\n0\r\n\r\n",
    "FFFFFFFFFFFFFFFFFF\r\n{\r\n",
    "2;\u{0}=\"\r\n{]\r\n0\r\n\r\n",
    "2\r\n{}{}\r\n0\r\n\r\n",
    "1\r\n{\r\n0\r\nX: \u{0}\r\n\r\n",
    "\r\n\r\n",
];
const BODIES: &[&str] = &[
    "[]",
    "null",
    "17",
    "\"text\"",
    "{",
    "{\"a\":}",
    "{} {}",
    "{\"leader\": \"\\ud800\"",
    "{\"pause\": 1e999}",
    "{\"for_s\": -1, \"for_s\": 99999999999999999999, \"member\": {}}",
    "{'member': 'n1'}",
    "member=n1&leader=n2",
    "<?xml version=\"1.0\"?><!DOCTYPE a [<!ENTITY b SYSTEM \"file:///etc/passwd\">]><a>&b;</a>",
    "\u{feff}{}",
    "--- !!python/object/apply:os.system [true]",
    "\u{0}",
    "{\"leader\": \"\u{0}\"}",
];
const QUERIES: &[&str] = &[
    "lag=99999999999999999999TB",
    "lag=-1",
    "lag=18014398509481984kB",
    "lag=1MB;2MB",
    "replication_state=%00%ff",
    "tag_=&tag_%20=%20",
    "mode=write&mode=read",
    "wait=-1s",
    "wait=0.1ms",
    "wait=99999999999999999999999y",
    "path=",
    "path=%2Fprimary%3Flag%3D%00",
    "path=a&path=b",
    "path=%2Fwhy%3Fpath%3D%2Fwhy",
    "limit=0",
    "limit=-1",
    "limit=99999999999",
    "limit=1&limit=2",
    "max_lag=99999999999999999999y",
    "max_lag=16EB",
    "max_transaction=1e9s",
    "min_replicas=-1",
    "min_replicas=18446744073709551615",
    "require_sync=%",
    "hold=%ff",
    "reason=%f0%28%8c%28&reason=x",
    "expect_leader=a%2Fb",
    "&&&===&&&",
    "%",
    "'; DROP TABLE written; --",
    "${jndi:ldap://a/b}",
];
const METHODS: &[&str] = &["get", "post", "Patch", "TRACE", "PROPFIND", "M-SEARCH", "BREW", "!#$%&'*+-.^_`|~", "X"];

/// One.
pub struct Hostile {
    /// Of which kind.
    pub what: &'static str,
    /// What is sent.
    pub bytes: Vec<u8>,
    /// It is a request to its end, or nothing that could become one: the connection ends by itself.
    pub is_whole: bool,
    /// It is well formed: an answer that turns it away says why.
    pub is_http: bool,
    /// No answer but 4xx will do.
    pub must_be_refused: bool,
    /// 503 is an answer by contract.
    pub may_be_unavailable: bool,
}

impl Hostile {
    fn new(what: &'static str, bytes: Vec<u8>) -> Self {
        Self { what, bytes, is_whole: true, is_http: false, must_be_refused: false, may_be_unavailable: false }
    }

    fn refused(what: &'static str, bytes: Vec<u8>) -> Self {
        Self { is_http: true, must_be_refused: true, ..Self::new(what, bytes) }
    }

    /// Any of them; `token` is one that may do everything.
    pub fn thrown(dice: &mut Dice, token: &str) -> Self {
        let with = format!("Authorization: Bearer {token}\r\n");
        let (path, may_be_unavailable) = READ[dice.below(READ.len())];
        let (verb, of_verb) = VERBS[dice.below(VERBS.len())];
        match dice.below(10) {
            0 => Self::new("a line", format!("{}\r\n\r\n", one(dice, LINES)).into_bytes()),
            1 => Self::new("noise", [noise(dice), b"\r\n\r\n".to_vec()].concat()),
            2 => {
                let head = format!("{with}{}\r\n", one(dice, HEADS));
                let bytes = request("GET", path, &head, b"");
                // What announces a body is waited for in vain.
                Self { is_whole: false, may_be_unavailable, ..Self::new("a head", bytes) }
            }
            3 => Self::new("a long head", request("GET", path, &long(dice), b"")),
            4 => {
                let head = format!("{with}Transfer-Encoding: chunked\r\n");
                Self {
                    is_whole: false,
                    ..Self::new("chunks", request(verb, of_verb, &head, one(dice, CHUNKS).as_bytes()))
                }
            }
            5 => {
                let query = format!("{path}?{}", one(dice, QUERIES).replace(' ', "%20"));
                let bytes = request("GET", &query, &with, b"");
                Self { is_http: true, may_be_unavailable, ..Self::new("a query", bytes) }
            }
            6 => Self::refused("a method", request(one(dice, METHODS), path, &with, b"")),
            7 => pipelined(dice, path, &with),
            _ => {
                let body = body(dice);
                let head = format!("{with}{}Content-Length: {}\r\n", kind(dice), body.len());
                Self::refused("a body", request(verb, of_verb, &head, &body))
            }
        }
    }
}

/// The bytes of a request that ends its connection.
pub fn request(method: &str, path: &str, head: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{head}\r\n");
    [head.as_bytes(), body].concat()
}

fn one<'a>(dice: &mut Dice, of: &[&'a str]) -> &'a str {
    of[dice.below(of.len())]
}

fn noise(dice: &mut Dice) -> Vec<u8> {
    (0..=dice.below(400)).map(|_| u8::try_from(dice.below(256)).unwrap_or_default()).collect()
}

/// More than an agent takes.
fn long(dice: &mut Dice) -> String {
    match dice.below(3) {
        0 => format!("X: {}\r\n", "x".repeat(20_000 + dice.below(100_000))),
        1 => "X: y\r\n".repeat(200 + dice.below(2000)),
        _ => format!("Cookie: {}\r\n", "\u{ff}".repeat(20_000)),
    }
}

fn kind(dice: &mut Dice) -> &'static str {
    one(dice, &["", "", "Content-Type: application/json\r\n", "Content-Type: text/xml\r\n", "Content-Type: \u{ff}\r\n"])
}

/// Never settings, nor a wish that can be understood.
fn body(dice: &mut Dice) -> Vec<u8> {
    match dice.below(6) {
        0 => vec![b'['; 1 + dice.below(100_000)],
        1 => format!("{{\"reason\":{}", "{\"a\":".repeat(1 + dice.below(20_000))).into_bytes(),
        2 => [b"{\"leader\": \"".as_slice(), &noise(dice), b"\xff\"}"].concat(),
        3 => vec![b' '; 257 * 1024 + dice.below(100_000)],
        _ => one(dice, BODIES).as_bytes().to_vec(),
    }
}

/// A good question, and after it what is none: nobody may take the rest for a body, or the body for a request.
fn pipelined(dice: &mut Dice, path: &str, with: &str) -> Hostile {
    let first = format!("GET {path} HTTP/1.1\r\nHost: x\r\n{with}\r\n");
    let rest = match dice.below(3) {
        0 => [noise(dice), b"\r\n\r\n".to_vec()].concat(),
        1 => request(
            "POST",
            "/v1/pause",
            &format!("{with}Content-Length: 3\r\n"),
            b"[1,2POST /v1/pause HTTP/1.1\r\n\r\n",
        ),
        _ => [first.repeat(dice.below(30)).into_bytes(), b"GET /x\r\n\r\n".to_vec()].concat(),
    };
    let bytes = [first.into_bytes(), rest].concat();
    Hostile { may_be_unavailable: true, ..Hostile::new("a queue", bytes) }
}

/// Bodies that are announced and do not come.
pub fn of_a_slow_client(token: &str) -> Vec<Vec<u8>> {
    let head = format!("Authorization: Bearer {token}\r\nContent-Length: 100\r\n");
    ["/switchover", "/v1/pause", "/promise"].map(|path| request("POST", path, &head, b"{")).into()
}

/// Bytes for whoever expects TLS: none of it comes to a connection.
pub fn to_tls(dice: &mut Dice) -> Hostile {
    let hello = |length: [u8; 2], rest: Vec<u8>| [[0x16, 3, 1].as_slice(), &length, &rest].concat();
    let (what, bytes) = match dice.below(5) {
        0 => ("noise for a handshake", hello([1, 0], noise(dice))),
        1 => ("a long record", hello([0xff, 0xff], noise(dice))),
        2 => ("an empty record", hello([0, 0], Vec::new())),
        3 => ("a heartbeat", b"\x18\x03\x02\x00\x03\x01\x40\x00".to_vec()),
        _ => ("clear text", request("GET", "/primary", "", b"")),
    };
    Hostile { is_whole: false, may_be_unavailable: true, ..Hostile::new(what, bytes) }
}
