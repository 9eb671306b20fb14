//! What somebody shows at the door: `Authorization: Bearer TOKEN`, or `Basic` with the name and the token, as programs made for Patroni do.

use axum::http::{HeaderMap, header};

use super::access::Stranger;
use crate::secret::Secret;

/// What was shown.
pub struct Presented {
    /// The name, where one was said: the token must be this one's.
    pub name: Option<String>,
    /// The token.
    pub token: Secret,
}

impl Presented {
    /// What is in the headers of a request.
    ///
    /// # Errors
    /// Nothing, or nothing that is known here.
    pub fn in_headers(headers: &HeaderMap) -> Result<Self, Stranger> {
        let nothing = |why: &str| Stranger { name: "nobody".to_owned(), why: why.to_owned() };
        let shown = headers.get(header::AUTHORIZATION).ok_or_else(|| {
            nothing("no token: send the header Authorization: Bearer TOKEN ([control] tokens names who has one)")
        })?;
        let shown = shown.to_str().ok().and_then(|text| text.trim().split_once(' '));
        let presented = shown.and_then(|(scheme, rest)| match scheme.to_ascii_lowercase().as_str() {
            "bearer" => Some(Self { name: None, token: Secret::new(rest.trim()) }),
            "basic" => basic(rest.trim()),
            _ => None,
        });
        presented.ok_or_else(|| nothing("the header Authorization is neither Bearer TOKEN nor Basic with NAME:TOKEN"))
    }
}

fn basic(text: &str) -> Option<Presented> {
    let pair = String::from_utf8(decoded(text)?).ok()?;
    let (name, token) = pair.split_once(':')?;
    Some(Presented { name: Some(name.to_owned()), token: Secret::new(token) })
}

/// Base64, as RFC 4648 has it.
fn decoded(text: &str) -> Option<Vec<u8>> {
    let (mut bits, mut count, mut bytes) = (0_u32, 0, Vec::new());
    for byte in text.trim_end_matches('=').bytes() {
        let six = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = (bits << 6 | u32::from(six)) & 0xffff;
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push(u8::try_from(bits >> count & 0xff).ok()?);
        }
    }
    Some(bytes)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn shown(value: &str) -> Result<(Option<String>, String), String> {
        let headers = HeaderMap::from_iter([(header::AUTHORIZATION, value.parse().unwrap())]);
        let found = Presented::in_headers(&headers);
        found.map(|found| (found.name, found.token.expose().to_owned())).map_err(|stranger| stranger.why)
    }

    #[test]
    fn a_token_comes_alone_or_with_its_name() {
        assert_eq!(shown("Bearer abc"), Ok((None, "abc".to_owned())));
        assert_eq!(shown("bearer  abc "), Ok((None, "abc".to_owned())));
        // printf 'ansible:s3cret:with+colon' | base64
        assert_eq!(
            shown("Basic YW5zaWJsZTpzM2NyZXQ6d2l0aCtjb2xvbg=="),
            Ok((Some("ansible".to_owned()), "s3cret:with+colon".to_owned()))
        );
        for nonsense in ["Bearer", "Basic ***", "Basic YW5z", "Digest x", ""] {
            assert!(shown(nonsense).is_err(), "{nonsense}");
        }
        assert!(Presented::in_headers(&HeaderMap::new()).err().unwrap().why.contains("Bearer TOKEN"));
    }
}
