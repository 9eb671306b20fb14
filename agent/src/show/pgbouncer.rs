//! PgBouncer before HAProxy: it knows nothing of roles and asks nobody, so it goes where HAProxy leads, and is told not to wait long.

/// A complete configuration of PgBouncer 1.18 or newer on a host where HAProxy has the configuration of `show haproxy`.
pub fn pgbouncer(database: &str) -> String {
    let quoted = database.replace('\'', "''");
    TEMPLATE
        .replace("DATABASE_RO", &entry(&format!("{database}_ro")))
        .replace("DATABASE_RW", &entry(database))
        .replace("DATABASE", &quoted)
}

/// A name on the left side of an entry.
fn entry(name: &str) -> String {
    let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c));
    if plain { name.to_owned() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
}

const TEMPLATE: &str = "\
; Made by `pgvigil show pgbouncer`. HAProxy on this host, with what `pgvigil show haproxy` prints, leads on to the primary and to the standbys.
; Around a planned switchover clients see a pause and no error where pgvigil tells the pooler to hold them: `[pgbouncer]` in its file, with the user
; pgbouncer, who is to be in auth_file as well.

[databases]
; Writes, and reads from a standby.
DATABASE_RW = host=127.0.0.1 port=5000 dbname='DATABASE'
DATABASE_RO = host=127.0.0.1 port=5001 dbname='DATABASE'

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = 6432
; Who may come in, one line each: \"name\" \"SCRAM-SHA-256$...\", as in pg_authid.
auth_type = scram-sha-256
auth_file = /etc/pgbouncer/userlist.txt
admin_users = pgbouncer
logfile = /var/log/postgresql/pgbouncer.log
pidfile = /var/run/postgresql/pgbouncer.pid
unix_socket_dir = /var/run/postgresql

; A session keeps no server between two transactions: after a failover the next transaction gets a new one, and the client stays connected.
pool_mode = transaction
max_client_conn = 1000
default_pool_size = 20
; pgjdbc and others send it; it has no effect here.
ignore_startup_parameters = extra_float_digits

; A server that refuses is tried again after 0.1 s. The default of 15 s would be the outage of every failover.
server_login_retry = 0.1
; HAProxy accepts at once and leads nowhere while there is no primary.
server_connect_timeout = 2
; A dead server is noticed before it is given to a client that waits.
server_check_delay = 1
; What was opened before a failover to what is a standby by now does not live on.
server_lifetime = 600
server_fast_close = 1
tcp_keepalive = 1
tcp_keepidle = 5
tcp_keepintvl = 2
tcp_keepcnt = 3
; A client waits so long for a primary before it is told that there is none.
query_wait_timeout = 30
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_is_there_for_writes_and_for_reads() {
        let text = pgbouncer("app");
        assert!(text.contains("\napp = host=127.0.0.1 port=5000 dbname='app'\n"), "{text}");
        assert!(text.contains("\napp_ro = host=127.0.0.1 port=5001 dbname='app'\n"), "{text}");
        let odd = pgbouncer("it's");
        assert!(odd.contains("\n\"it's\" = host=127.0.0.1 port=5000 dbname='it''s'\n"), "{odd}");
    }
}
