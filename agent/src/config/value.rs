//! How single values are written in the file: durations and sizes with a unit, addresses, lists and the values of
//! Postgres parameters. Each reader also takes the plain text that an environment variable gives.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

/// A duration, written as `"500ms"`, `"5s"` or `"1m 30s"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lasting(pub Duration);

struct LastingVisitor;

impl Visitor<'_> for LastingVisitor {
    type Value = Lasting;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a duration with a unit, such as \"500ms\" or \"5s\"")
    }
    fn visit_str<E: de::Error>(self, text: &str) -> Result<Lasting, E> {
        humantime::parse_duration(text).map(Lasting).map_err(|_| E::invalid_value(de::Unexpected::Str(text), &self))
    }
}

impl<'de> Deserialize<'de> for Lasting {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(LastingVisitor)
    }
}

/// A number of bytes, written as `"1MB"`. As in Postgres, 1 kB is 1024 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub u64);

/// The units of sizes, as Postgres spells them.
const UNITS: [(&str, u32); 5] = [("kB", 10), ("MB", 20), ("GB", 30), ("TB", 40), ("B", 0)];

impl FromStr for Size {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        let text = text.trim();
        let (number, power) =
            UNITS.iter().find_map(|(unit, power)| Some((text.strip_suffix(unit)?, *power))).ok_or(())?;
        let number: u64 = number.trim_end().parse().map_err(|_| ())?;
        number.checked_mul(1 << power).map(Size).ok_or(())
    }
}

struct SizeVisitor;

impl Visitor<'_> for SizeVisitor {
    type Value = Size;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a whole number with the unit B, kB, MB, GB or TB, such as \"1MB\"")
    }
    fn visit_str<E: de::Error>(self, text: &str) -> Result<Size, E> {
        text.parse().map_err(|()| E::invalid_value(de::Unexpected::Str(text), &self))
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(SizeVisitor)
    }
}

/// A list of texts. In the environment: separated by commas.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct List(pub Vec<String>);

struct ListVisitor;

impl<'de> Visitor<'de> for ListVisitor {
    type Value = List;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of strings")
    }
    fn visit_str<E: de::Error>(self, text: &str) -> Result<List, E> {
        Ok(List(text.split(',').map(|item| item.trim().to_owned()).filter(|item| !item.is_empty()).collect()))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<List, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(List(list))
    }
}

impl<'de> Deserialize<'de> for List {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ListVisitor)
    }
}

/// Postgres parameters, with their values as they are written into `postgresql.conf`: `on` and `off` for booleans, no
/// quotes. Names are lower case, as Postgres does not mind the case. A dotted name may be written bare: TOML reads `a.b
/// = 1` as a table in a table, which is made flat again here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parameters(pub BTreeMap<String, String>);

impl<'de> Deserialize<'de> for Parameters {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut flat = BTreeMap::new();
        for (name, value) in BTreeMap::<String, Parameter>::deserialize(deserializer)? {
            value.flatten_into(name.to_lowercase(), &mut flat);
        }
        Ok(Self(flat))
    }
}

/// One value, or the rest of a dotted name.
enum Parameter {
    Value(String),
    Dotted(BTreeMap<String, Parameter>),
}

impl Parameter {
    fn flatten_into(self, name: String, flat: &mut BTreeMap<String, String>) {
        match self {
            Self::Value(value) => {
                flat.insert(name, value);
            }
            Self::Dotted(inner) => {
                for (rest, value) in inner {
                    value.flatten_into(format!("{name}.{}", rest.to_lowercase()), flat);
                }
            }
        }
    }
}

struct ParameterVisitor;

impl<'de> Visitor<'de> for ParameterVisitor {
    type Value = Parameter;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string, a number or a boolean")
    }
    fn visit_str<E: de::Error>(self, text: &str) -> Result<Parameter, E> {
        Ok(Parameter::Value(text.to_owned()))
    }
    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Parameter, E> {
        Ok(Parameter::Value(if value { "on" } else { "off" }.to_owned()))
    }
    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Parameter, E> {
        Ok(Parameter::Value(value.to_string()))
    }
    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Parameter, E> {
        Ok(Parameter::Value(value.to_string()))
    }
    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Parameter, E> {
        Ok(Parameter::Value(value.to_string()))
    }
    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Parameter, A::Error> {
        BTreeMap::deserialize(de::value::MapAccessDeserializer::new(map)).map(Parameter::Dotted)
    }
}

impl<'de> Deserialize<'de> for Parameter {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ParameterVisitor)
    }
}

/// Where something is reached: a host name or an address, and a port. An IPv6 address is written in brackets.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostPort {
    /// Host name or address, without brackets.
    pub host: String,
    /// Port.
    pub port: u16,
}

impl HostPort {
    /// Reads `host:port`, or `host` alone where there is a usual port. Says in a sentence what is wrong.
    pub fn parse(text: &str, usual_port: Option<u16>) -> Result<Self, String> {
        let text = text.trim();
        let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((host, "")) => (host, None),
            Some((host, rest)) => {
                (host, Some(rest.strip_prefix(':').ok_or(format!("no ':' after ']' in \"{text}\""))?))
            }
            None if text.matches(':').count() > 1 => return Err(format!("put the IPv6 address in brackets: [{text}]")),
            None => text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
        };
        if host.is_empty() {
            return Err("the host is empty".into());
        }
        if host.contains(|c: char| c.is_whitespace() || "/'\"=&?#@,".contains(c)) {
            return Err(format!("\"{host}\" is neither a host name nor an address"));
        }
        let port = match (port, usual_port) {
            (None, None) => return Err(format!("the port is missing: \"{text}:PORT\"")),
            (None, Some(usual)) => usual,
            (Some(port), _) => match port.parse() {
                Ok(0) | Err(_) => return Err(format!("\"{port}\" is no port: use 1 to 65535")),
                Ok(port) => port,
            },
        };
        Ok(Self { host: host.to_owned(), port })
    }

    /// Whether it stands for every address of a host, and so leads nobody anywhere.
    pub fn is_wildcard(&self) -> bool {
        matches!(self.host.as_str(), "0.0.0.0" | "::" | "*")
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn an_address_reads_as_it_prints() {
        for text in ["pg1:5432", "[fd00::1]:5432"] {
            assert_eq!(HostPort::parse(text, None).unwrap().to_string(), text);
        }
        assert_eq!(HostPort::parse("[fd00::1]", Some(5432)).unwrap().port, 5432);
        for bad in ["", "pg1:", "pg1:0", "pg1:70000", "a b:1", "fd00::1", "[fd00::1]5432", "u@h:1"] {
            assert!(HostPort::parse(bad, Some(1)).is_err(), "{bad}");
        }
    }
}
