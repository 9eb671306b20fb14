//! What is read off a certificate: by which names it knows its bearer (the DNS names in it, and the common name of its subject, without which many
//! private authorities do not do), and from when until when it is valid. What is not well formed is nothing.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use tokio_rustls::rustls::pki_types::CertificateDer;
use webpki::EndEntityCert;

/// The object identifier of a common name (2.5.4.3), as DER writes it.
const COMMON_NAME: &[u8] = &[0x06, 0x03, 0x55, 0x04, 0x03];
/// UTF8String, PrintableString, TeletexString, IA5String.
const TEXTS: [u8; 4] = [0x0c, 0x13, 0x14, 0x16];

/// A time with two digits of the year, and one with four.
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
/// The version of a certificate, which need not be there.
const VERSION: u8 = 0xa0;

/// From when until when something is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// Not before this instant.
    pub from: Timestamp,
    /// Not after this one.
    pub until: Timestamp,
}

/// Its validity; `None`: it is no certificate.
pub fn validity(certificate: &[u8]) -> Option<Validity> {
    let (_, whole) = Values(certificate).next()?;
    let (_, signed) = Values(whole).next()?;
    // After the serial number, the algorithm and the issuer.
    let (_, validity) = Values(signed).filter(|(kind, _)| *kind != VERSION).nth(3)?;
    let mut times = Values(validity).map(time);
    Some(Validity { from: times.next()??, until: times.next()?? })
}

/// `491231235959Z` or `20491231235959Z`, as RFC 5280 (4.1.2.5) has them.
fn time((kind, text): (u8, &[u8])) -> Option<Timestamp> {
    let text = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
    let text = match kind {
        UTC_TIME if text.get(..2)?.parse::<u8>().ok()? >= 50 => format!("19{text}"),
        UTC_TIME => format!("20{text}"),
        GENERALIZED_TIME => text.to_owned(),
        _ => return None,
    };
    let civil = DateTime::strptime("%Y%m%d%H%M%S", text).ok()?;
    civil.to_zoned(TimeZone::UTC).ok().map(|time| time.timestamp())
}

/// All names that fit into a line of a log.
pub fn names(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Ok(certificate) = EndEntityCert::try_from(certificate) else { return Vec::new() };
    let mut names: Vec<String> = certificate.valid_dns_names().map(str::to_owned).collect();
    names.extend(common_names(certificate.subject()));
    names.retain(|name| !name.chars().any(char::is_control));
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
    fn the_end_of_a_certificate_is_read_from_either_form_of_time() {
        let read = |kind: u8, text: &str| time((kind, text.as_bytes())).map(|time| time.to_string());
        assert_eq!(read(UTC_TIME, "491231235959Z").as_deref(), Some("2049-12-31T23:59:59Z"));
        assert_eq!(read(UTC_TIME, "500101000000Z").as_deref(), Some("1950-01-01T00:00:00Z"));
        assert_eq!(read(GENERALIZED_TIME, "20520229120000Z").as_deref(), Some("2052-02-29T12:00:00Z"));
        for (kind, text) in
            [(UTC_TIME, "491231235959"), (UTC_TIME, "Z"), (GENERALIZED_TIME, "20511301000000Z"), (4, "x")]
        {
            assert_eq!(read(kind, text), None, "{text}");
        }
        // A sequence of a sequence: version, serial number, algorithm, issuer, validity.
        let mut bytes = b"\x30\x30\x30\x2e\xa0\x03\x02\x01\x02\x02\x01\x07\x30\x00\x30\x00\x30\x20".to_vec();
        bytes.extend(b"\x17\x0d260101000000Z\x18\x0f20270101000000Z");
        let until = validity(&bytes).map(|found| found.until.to_string());
        assert_eq!(until.as_deref(), Some("2027-01-01T00:00:00Z"));
        for end in 0..bytes.len() {
            assert_eq!(validity(&bytes[..end]), None, "cut off at {end}");
        }
    }

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
