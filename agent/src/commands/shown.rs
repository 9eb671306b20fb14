//! `pgvigil show`: configuration for the programs around a cluster, from the members that are registered in etcd; the rules for Prometheus are the
//! same for every cluster.

use consensus::Snapshot;

use super::screen::{answer, tell};
use super::world::Reach;
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
                (Ok(address), Ok(reach)) => say(&vip_manager(&own(&reach.config), &address)),
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
    let snapshot = match reach.store.read().await {
        Ok(snapshot) => snapshot,
        Err(error) => {
            tell(&format!("error: the members are listed in etcd, and it does not answer: {error}"));
            return reach.silence();
        }
    };
    let mut members = members(&snapshot);
    if members.is_empty() {
        tell("note: no member is registered in etcd (no agent runs); this has only the node of this configuration");
        members.push(own(&reach.config));
    }
    answer(text(&members).trim_end());
    Exit::Done
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
    fn addresses_are_read_from_urls() {
        let text = |url| address(url).map(|address| address.to_string());
        assert_eq!(text("http://10.0.0.2:8008"), Some("10.0.0.2:8008".to_owned()));
        assert_eq!(text("https://[fd00::2]:8008/patroni"), Some("[fd00::2]:8008".to_owned()));
        assert_eq!(text("http://pg1"), Some("pg1:80".to_owned()));
        assert_eq!(text("pg1:80"), None);
    }
}
