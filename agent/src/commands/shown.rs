//! `pgvigil show`: configuration for the programs around a cluster, from the members that are registered in etcd; the rules for Prometheus are the
//! same for every cluster.

use consensus::Snapshot;
use serde_json::Value;

use super::screen::{answer, tell};
use super::world::{AGENT_WITHIN, Reach};
use crate::cli::{ConfigArg, Exit, KeepalivedArgs, ShowCommand, UriArgs, VirtualArgs};
use crate::config::{Config, HostPort};
use crate::show::{
    Driver, HaproxyOptions, PROMETHEUS_RULES, SYSTEMD_UNIT, ShowMember, Virtual, haproxy, keepalived, pgbouncer, uri,
    vip_manager,
};

/// Prints what was asked for.
pub async fn run(command: &ShowCommand) -> Exit {
    match command {
        ShowCommand::Haproxy(arguments) => {
            let reach = match Reach::new(&arguments.config) {
                Ok(reach) => reach,
                Err(exit) => return exit,
            };
            let runtime_sockets = reach.config.haproxy.sockets.clone();
            let options = HaproxyOptions { runtime_sockets, ..HaproxyOptions::default() };
            print(&arguments.config, |members| haproxy(members, &options)).await
        }
        ShowCommand::Uri(arguments) => match driver(arguments) {
            Some(driver) => print(&arguments.config, |members| uri(members, &arguments.database, driver)).await,
            None => {
                tell(&format!("error: --driver {} is neither libpq nor jdbc", arguments.driver));
                Exit::Usage
            }
        },
        ShowCommand::Pgbouncer(arguments) => say(&pgbouncer(&arguments.database)),
        ShowCommand::VipManager(arguments) => {
            match (virtual_address(&arguments.address), Reach::new(&arguments.config)) {
                (Ok(address), Ok(reach)) => {
                    say(&vip_manager(&own(&reach.config), &reach.config.etcd, &reach.config.cluster, &address))
                }
                (Err(exit), _) | (_, Err(exit)) => exit,
            }
        }
        ShowCommand::Keepalived(arguments) => among_others(arguments).await,
        ShowCommand::PrometheusRules => say(PROMETHEUS_RULES),
        ShowCommand::Systemd => say(SYSTEMD_UNIT),
        ShowCommand::SqlRoles(arguments) => sql_roles(&arguments.config),
    }
}

fn say(text: &str) -> Exit {
    answer(text.trim_end());
    Exit::Done
}

fn virtual_address(arguments: &VirtualArgs) -> Result<Virtual, Exit> {
    Virtual::parse(&arguments.ip, &arguments.interface).map_err(|why| {
        tell(&format!("error: --ip {why}"));
        Exit::Usage
    })
}

async fn among_others(arguments: &KeepalivedArgs) -> Exit {
    let (address, reach) = match (virtual_address(&arguments.address), Reach::new(&arguments.config)) {
        (Ok(address), Ok(reach)) => (address, reach),
        (Err(exit), _) | (_, Err(exit)) => return exit,
    };
    let me = own(&reach.config);
    print(&arguments.config, |members| {
        let others: Vec<ShowMember> = members.iter().filter(|member| member.name != me.name).cloned().collect();
        keepalived(&me, &others, &reach.config.cluster, arguments.router, &address)
    })
    .await
}

fn sql_roles(config: &ConfigArg) -> Exit {
    let reach = match Reach::new(config) {
        Ok(reach) => reach,
        Err(exit) => return exit,
    };
    match crate::run::instance(&reach.config) {
        Ok(instance) => say(&pg_control::shown_roles(instance.config())),
        Err(error) => {
            tell(&format!("error: {error:#}"));
            Exit::Usage
        }
    }
}

fn driver(arguments: &UriArgs) -> Option<Driver> {
    match arguments.driver.as_str() {
        "libpq" => Some(Driver::Libpq),
        "jdbc" => Some(Driver::Jdbc),
        _ => None,
    }
}

async fn print(config: &ConfigArg, text: impl FnOnce(&[ShowMember]) -> String) -> Exit {
    let reach = match Reach::new(config) {
        Ok(reach) => reach,
        Err(exit) => return exit,
    };
    let mut members = match reach.store.read().await {
        Ok(snapshot) => members(&snapshot),
        Err(error) => match remembered(&reach).await {
            Some(members) => {
                tell(&format!(
                    "note: etcd does not answer ({error}); these are the members that the agent of this host remembers"
                ));
                members
            }
            None => {
                tell(&format!(
                    "error: the members are listed in etcd, and neither it nor the agent of this host answers: {error}"
                ));
                return reach.silence();
            }
        },
    };
    if members.is_empty() {
        tell("note: no member is registered in etcd (no agent runs); this has only the node of this configuration");
        members.push(own(&reach.config));
    }
    answer(text(&members).trim_end());
    Exit::Done
}

/// The members as the agent of this host remembers them.
async fn remembered(reach: &Reach) -> Option<Vec<ShowMember>> {
    let told = reach.peers.get(&reach.own_api(), "/cluster", AGENT_WITHIN).await.ok()?;
    told["members"].as_array().map(|members| members.iter().filter_map(of_cluster).collect())
}

fn of_cluster(member: &Value) -> Option<ShowMember> {
    let api = address(member["api_url"].as_str()?)?;
    let (name, host) = (member["name"].as_str()?.to_owned(), member["host"].as_str()?.to_owned());
    let port = u16::try_from(member["port"].as_u64()?).ok()?;
    Some(ShowMember { name, host, port, api_host: api.host, api_port: api.port })
}

fn members(snapshot: &Snapshot) -> Vec<ShowMember> {
    let shown = |(name, member): (&decision::names::MemberName, &decision::view::Member)| {
        let Some(api) = address(&member.api_url) else {
            tell(&format!("note: {name} is left out, for its api_url \"{}\" has no host and port", member.api_url));
            return None;
        };
        let (name, host, port) = (name.to_string(), member.host.clone(), member.port);
        Some(ShowMember { name, host, port, api_host: api.host, api_port: api.port })
    };
    snapshot.cluster.members.iter().filter_map(shown).collect()
}

/// The address in `http://host:port/path`.
fn address(url: &str) -> Option<HostPort> {
    let (scheme, rest) = url.split_once("://")?;
    let usual = if scheme == "https" { 443 } else { 80 };
    HostPort::parse(rest.split('/').next()?, Some(usual)).ok()
}

fn own(config: &Config) -> ShowMember {
    let (postgres, api) = (&config.postgres.advertise, &config.api.advertise);
    ShowMember {
        name: config.name.to_string(),
        host: postgres.host.clone(),
        port: postgres.port,
        api_host: api.host.clone(),
        api_port: api.port,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_is_read_from_what_an_agent_remembers() {
        let told = serde_json::json!({"name": "pg2", "host": "10.0.0.2", "port": 5432, "api_url": "http://10.0.0.2:8008/patroni"});
        let member = of_cluster(&told).expect("a member");
        assert_eq!((member.name.as_str(), member.port, member.api_port), ("pg2", 5432, 8008));
        assert!(of_cluster(&serde_json::json!({"name": "pg2"})).is_none(), "one that has no address");
    }

    #[test]
    fn addresses_are_read_from_urls() {
        let text = |url| address(url).map(|address| address.to_string());
        assert_eq!(text("http://10.0.0.2:8008"), Some("10.0.0.2:8008".to_owned()));
        assert_eq!(text("https://[fd00::2]:8008/patroni"), Some("[fd00::2]:8008".to_owned()));
        assert_eq!(text("http://pg1"), Some("pg1:80".to_owned()));
        assert_eq!(text("pg1:80"), None);
    }
}
