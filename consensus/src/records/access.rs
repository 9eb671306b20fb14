//! Who may connect to Postgres, where the settings of the cluster say so: the lines of `pg_hba.conf` and `pg_ident.conf`, in Patroni's place. A
//! line that cannot be meant makes all of it void: a rule that is left out changes what those behind it mean.

use serde_json::Value;

/// Rules for connections.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// Lines of `pg_hba.conf`, behind those of the agent.
    pub hba: Vec<String>,
    /// Lines of `pg_ident.conf`, behind those of the agent.
    pub ident: Vec<String>,
}

/// Reads them; `None`: the files are each node's own affair.
pub(super) fn access(raw: &Value, wrong: &mut Vec<String>) -> Option<Access> {
    let read = |place: &str, objects: fn(&str) -> Option<String>| match raw.pointer(place) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => {
            rules(value, objects).map(Some).map_err(|why| format!("{place}: {why}; both files are left alone"))
        }
    };
    match (read("/postgresql/pg_hba", objection), read("/postgresql/pg_ident", ident_objection)) {
        (Ok(None), Ok(None)) => None,
        (Ok(hba), Ok(ident)) => Some(Access { hba: hba.unwrap_or_default(), ident: ident.unwrap_or_default() }),
        (hba, ident) => {
            wrong.extend(hba.err().into_iter().chain(ident.err()));
            None
        }
    }
}

/// The lines, if there is nothing against any of them.
///
/// # Errors
/// It is no list of lines, or what speaks against one.
pub fn rules(value: &Value, objects: fn(&str) -> Option<String>) -> Result<Vec<String>, String> {
    let lines = value.as_array().ok_or("it is no list of lines")?;
    let line = |value: &Value| value.as_str().map(str::to_owned).ok_or_else(|| format!("{value} is no line"));
    let lines: Vec<String> = lines.iter().map(line).collect::<Result<_, _>>()?;
    match lines.iter().find_map(|line| objects(line)) {
        None => Ok(lines),
        Some(why) => Err(why),
    }
}

/// What speaks against a line of `pg_hba.conf`: Postgres would not take the file, or whoever may write to etcd would let everybody in.
pub fn objection(line: &str) -> Option<String> {
    const KINDS: [&str; 6] = ["local", "host", "hostssl", "hostnossl", "hostgssenc", "hostnogssenc"];
    const LOOPBACK: [&str; 4] = ["127.0.0.1/32", "::1/128", "127.0.0.1", "::1"];
    let words: Vec<&str> = line.split_whitespace().collect();
    let first = words.first().copied().unwrap_or("#");
    if first.starts_with('#') && !line.contains('\n') {
        return None;
    }
    if line.contains('\n') || !KINDS.contains(&first) {
        return Some(format!(
            "\"{line}\" is no line of pg_hba.conf, such as \"hostssl all all 10.0.0.0/8 scram-sha-256\""
        ));
    }
    let from_here = first == "local" || words.get(3).is_some_and(|address| LOOPBACK.contains(address));
    (words.contains(&"trust") && !from_here).then(|| {
        format!("\"{line}\" lets everybody in without a password; write scram-sha-256, or an address of this host")
    })
}

/// What speaks against a line of `pg_ident.conf`.
pub fn ident_objection(line: &str) -> Option<String> {
    let words = line.split_whitespace().count();
    let good = !line.contains('\n') && (line.trim_start().starts_with('#') || words >= 3);
    (!good).then(|| format!("\"{line}\" is no line of pg_ident.conf, such as \"staff anna app\""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn rules_are_read_and_one_that_cannot_be_meant_makes_all_void() {
        let read = |postgresql: Value| {
            let mut wrong = Vec::new();
            (access(&json!({"postgresql": postgresql}), &mut wrong), wrong)
        };
        assert_eq!(read(json!({})), (None, Vec::new()));
        let one = "hostssl app app 10.0.0.0/8 scram-sha-256".to_owned();
        let access = Access { hba: vec![one.clone()], ident: Vec::new() };
        assert_eq!(read(json!({"pg_hba": [one]})), (Some(access), Vec::new()));
        assert_eq!(read(json!({"pg_hba": []})).0, Some(Access::default()));
        for (bad, why) in [
            (json!({"pg_hba": "host"}), "no list of lines"),
            (json!({"pg_hba": ["hots all all all md5"]}), "no line of pg_hba.conf"),
            (json!({"pg_hba": ["host all all all md5\nhost all all all trust"]}), "no line of pg_hba.conf"),
            (json!({"pg_hba": ["host all all 0.0.0.0/0 trust"]}), "without a password"),
            (json!({"pg_hba": [], "pg_ident": ["staff anna"]}), "no line of pg_ident.conf"),
        ] {
            let (access, wrong) = read(bad.clone());
            assert!(access.is_none() && wrong.len() == 1 && wrong[0].contains(why), "{bad}: {wrong:?}");
        }
        assert_eq!(objection("host all all 127.0.0.1/32 trust"), None);
        assert_eq!(objection("local all all trust"), None);
        assert_eq!(objection("# anything"), None);
    }
}
