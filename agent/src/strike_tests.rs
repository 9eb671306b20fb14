//! Secrets in every dress in which they turn up in files, and what is none.

use serde_json::json;

use super::*;

#[test]
fn what_stands_where_secrets_do_is_struck() {
    let strike = Strike::new([]);
    for (text, struck) in [
        ("password = \"hunter2\"", "password = \"***\""),
        ("primary_conninfo = 'user=x password=hunter2 host=y'", "primary_conninfo = 'user=x password=*** host=y'"),
        ("primary_conninfo = 'password=''hun ter2'' host=y'", "primary_conninfo = 'password=''***'' host=y'"),
        ("ALTER ROLE a PASSWORD 'hunter2';", "ALTER ROLE a PASSWORD '***';"),
        ("{\"token\": \"hunter2\", \"a\": 1}", "{\"token\": \"***\", \"a\": 1}"),
        ("{\\\"password\\\":\\\"hunter2\\\"}", "{\\\"password\\\":\\\"***\\\"}"),
        ("PGPASSWORD=hunter2 psql", "PGPASSWORD=*** psql"),
        ("ldapbindpasswd=hunter2", "ldapbindpasswd=***"),
        ("etcd.password_file = \"/etc/secret\"", "etcd.password_file = \"/etc/secret\""),
        ("password authentication failed for user", "password authentication failed for user"),
        ("password_encryption = 'scram-sha-256'", "password_encryption = 'scram-sha-256'"),
        ("http://root:hunter2@e1:2379/v3", "http://root:***@e1:2379/v3"),
        ("http://e1:2379,http://e2:2379", "http://e1:2379,http://e2:2379"),
        ("archive_command = 'push --key hunter2 %p'", "archive_command = 'push ***'"),
        ("\"restore_command\": \"KEY=hunter2 fetch %f\",", "\"restore_command\": \"***\","),
        ("Authorization: Bearer hunter2", "Authorization: ***"),
        ("password: Some(\"hunter2\")", "password: Some(\"***\")"),
        ("rolpassword SCRAM-SHA-256$4096:aaa$bbb:ccc end", "rolpassword SCRAM-SHA-256$*** end"),
        ("md5aaaabbbbccccddddaaaabbbbccccdddd and md5", "md5*** and md5"),
        ("password=a,b;c&d)e host=x", "password=*** host=x"),
        (
            "x\n-----BEGIN PRIVATE KEY-----\nMIIabc\n-----END PRIVATE KEY-----\ny",
            "x\n-----BEGIN PRIVATE KEY-----***-----END PRIVATE KEY-----\ny",
        ),
        ("-----BEGIN EC PRIVATE KEY-----\nMIIabc", "-----BEGIN EC PRIVATE KEY-----***"),
        ("command = [\"/x/restore\", \"--key\", \"hunter2\"] # x", "command = *** # x"),
        ("post_command = [\"x\", \"user:hunter2\"]", "post_command = ***"),
        ("tokens = [\"hunter2\", \"hunter3\"]", "tokens = ***"),
        (
            "command: [\n    \"/x\",\n    \"hunter2\",\n],\nname: \"pg1\"",
            "command: ***\n***\n***\n***],\nname: \"pg1\"",
        ),
        ("command: [],\nname: \"pg1\"", "command: ***\nname: \"pg1\""),
        ("https://hunter2@git.example/x", "https://***@git.example/x"),
        ("postgres://anna@db1/x", "postgres://anna@db1/x"),
        ("app.jwt_key = 'hunter2'", "app.jwt_key = '***'"),
        ("nothing here", "nothing here"),
    ] {
        assert_eq!(strike.text(text), struck);
    }
}

#[test]
fn what_is_known_is_struck_wherever_it_stands() {
    let strike = Strike::new(["pa\"ss w0rd".to_owned(), "pass".to_owned(), "abc".to_owned()]);
    assert_eq!(strike.text("it is pa\"ss w0rd here"), "it is *** here");
    assert_eq!(strike.text(r#"{"x":"pa\"ss w0rd"}"#), r#"{"x":"***"}"#);
    assert_eq!(strike.text("?p=pa%22ss%20w0rd&x"), "?p=***&x");
    assert_eq!(strike.text("abc passes"), "abc ***es", "three letters are no secret");
}

#[test]
fn of_a_list_in_quotes_all_is_struck() {
    let strike = Strike::new([]);
    let rule = |secrets: &str| format!("host all all 0/0 radius radiusservers=\"a,b\" radiussecrets={secrets} x=y");
    assert_eq!(strike.text(&rule(r#""""one"",""two""""#)), rule(r#""""***""""#));
    assert_eq!(strike.text(&rule("one")), rule("***"));
    assert_eq!(strike.text(&rule(r#""one""#)), rule(r#""***""#));
    let json = json!([rule(r#""""one"",""two""""#)]).to_string();
    assert!(!strike.text(&json).contains("two"), "{}", strike.text(&json));
}

#[test]
fn of_json_the_names_of_fields_count() {
    let strike = Strike::new([]);
    let told = strike.json(&json!({
        "postgresql": {"parameters": {"archive_command": "push --key x %p", "work_mem": "8MB"}, "password": "x"},
        "tokens": [{"file": "/x"}], "password_file": "/y", "token": null, "list": ["a password=x b"],
    }));
    assert_eq!(
        told,
        json!({
            "postgresql": {"parameters": {"archive_command": "push ***", "work_mem": "8MB"}, "password": "***"},
            "tokens": "***", "password_file": "/y", "token": null, "list": ["a password=*** b"],
        })
    );
}
