//! By which names a client's certificate knows it: the DNS names in it, and the common name of its subject, without which many private authorities do
//! not do. The chain has been verified before, so what is read here is well formed, or is nothing.

use tokio_rustls::rustls::pki_types::CertificateDer;
use webpki::EndEntityCert;

/// The object identifier of a common name (2.5.4.3), as DER writes it.
const COMMON_NAME: &[u8] = &[0x06, 0x03, 0x55, 0x04, 0x03];
/// UTF8String, PrintableString, TeletexString, IA5String.
const TEXTS: [u8; 4] = [0x0c, 0x13, 0x14, 0x16];

/// All of them.
pub fn names(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Ok(certificate) = EndEntityCert::try_from(certificate) else { return Vec::new() };
    let mut names: Vec<String> = certificate.valid_dns_names().map(str::to_owned).collect();
    names.extend(common_names(certificate.subject()));
    names
}

/// A subject is a sequence of sets of pairs.
fn common_names(subject: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    for (_, set) in Values(subject) {
        for (_, pair) in Values(set) {
            let Some(text) = pair.strip_prefix(COMMON_NAME) else { continue };
            let text = Values(text).next().filter(|(kind, _)| TEXTS.contains(kind));
            found.extend(text.and_then(|(_, bytes)| String::from_utf8(bytes.to_vec()).ok()));
        }
    }
    found
}

/// DER's values, one after another: a tag and what it holds.
struct Values<'a>(&'a [u8]);

impl<'a> Iterator for Values<'a> {
    type Item = (u8, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (&[tag, length], rest) = self.0.split_first_chunk::<2>()?;
        let (length, rest) = match length {
            0..=0x7f => (usize::from(length), rest),
            0x81 => (usize::from(*rest.first()?), rest.get(1..)?),
            0x82 => (usize::from(*rest.first()?) << 8 | usize::from(*rest.get(1)?), rest.get(2..)?),
            _ => return None,
        };
        let value = rest.get(..length)?;
        self.0 = &rest[length..];
        Some((tag, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_common_name_is_found_among_the_rest_of_a_subject() {
        // O=Acme, CN=ansible
        let subject =
            b"\x31\x0d\x30\x0b\x06\x03\x55\x04\x0a\x0c\x04Acme\x31\x10\x30\x0e\x06\x03\x55\x04\x03\x0c\x07ansible";
        assert_eq!(common_names(subject), ["ansible"]);
        for end in 0..subject.len() {
            assert!(common_names(&subject[..end]).is_empty(), "cut off at {end}");
        }
        assert!(common_names(b"\x31\xff\x30").is_empty());
    }
}
