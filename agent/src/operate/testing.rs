//! What the tests of several files here begin with.
#![allow(clippy::unwrap_used)]

use decision::names::MemberName;
use decision::settings::Tags;
use decision::view::{Member, MemberRole};
use serde_json::{Map, Value};

/// A member's name.
pub fn name(text: &str) -> MemberName {
    MemberName::new(text).unwrap()
}

/// A standby that wants nothing.
pub fn standby(name: &str) -> Member {
    Member {
        host: name.to_owned(),
        port: 5432,
        api_url: format!("http://{name}:8008"),
        role: MemberRole::Standby,
        timeline: None,
        tags: Tags::default(),
        lock_lease: 0,
        rewind_source_ready: true,
        no_fence: None,
        disk_low: false,
        not_listening: None,
        capacities: Default::default(),
        slots: Default::default(),
        zone: None,
        streams_from: None,
    }
}

/// The fields of a JSON object.
pub fn object(value: Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}
