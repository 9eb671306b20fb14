//! Who may connect: `pg_hba.conf` and `pg_ident.conf` of a new cluster. They are the operator's from then on. The agent's own way in comes first,
//! so that no rule locks it out; the rules of a restored cluster stay behind ours.

use crate::error::{Error, Result};
use crate::instance::{Instance, InstanceConfig};
use crate::text;

impl Instance {
    /// Who may connect to a new database, as long as nobody says otherwise.
    pub(super) fn write_access_rules(&self) -> Result<()> {
        let config = self.config();
        let general = "local all all peer\nhost all all all scram-sha-256\n";
        self.write_rules(&ident(config, &own_user()?), &hba(config, general))
    }

    /// The same before the rules that came with a backup.
    pub(super) fn put_access_rules_in_front(&self) -> Result<()> {
        let config = self.config();
        let theirs = |file: &str| text::read_if_there(&self.data_dir().join(file));
        let ident = ident(config, &own_user()?) + &theirs("pg_ident.conf")?;
        self.write_rules(&ident, &hba(config, &theirs("pg_hba.conf")?))
    }

    /// The rules of a server that somebody else has made, behind ours: those for names of users first, then those for connections. Ours are not
    /// put there twice.
    pub(crate) fn rules_in_front(&self, theirs_ident: &str, theirs_hba: &str) -> Result<[String; 2]> {
        let config = self.config();
        let in_front = |ours: String, theirs: &str| match theirs.starts_with(&ours) {
            true => theirs.to_owned(),
            false => ours + theirs,
        };
        let ident = ident(config, &own_user()?);
        Ok([in_front(ident, theirs_ident), in_front(hba(config, ""), theirs_hba)])
    }

    /// Our rules, and behind them those that the cluster's settings say.
    pub(crate) fn rules_of_the_cluster(&self, theirs_ident: &[String], theirs_hba: &[String]) -> Result<[String; 2]> {
        let lines = |lines: &[String]| lines.iter().map(|line| format!("{line}\n")).collect::<String>();
        let config = InstanceConfig { hba: Vec::new(), ..self.config().clone() };
        let kept = "# Kept by pgvigil: what is written here is replaced. pgvigil config edit: postgresql.pg_hba, postgresql.pg_ident\n";
        let ident = format!("{kept}{}{}", ident(&config, &own_user()?), lines(theirs_ident));
        Ok([ident, format!("{kept}{}", hba(&config, &lines(theirs_hba)))])
    }

    fn write_rules(&self, ident: &str, hba: &str) -> Result<()> {
        text::write(&self.data_dir().join("pg_ident.conf"), ident, 0o600)?;
        text::write(&self.data_dir().join("pg_hba.conf"), hba, 0o600)
    }
}

fn own_user() -> Result<String> {
    let user = nix::unistd::User::from_uid(nix::unistd::geteuid()).ok().flatten();
    user.map(|user| user.name).ok_or_else(|| {
        Error::host(
            "the user that runs the agent has no name",
            "add it to /etc/passwd: peer authentication goes by names",
        )
    })
}

fn ident(config: &InstanceConfig, user: &str) -> String {
    format!(
        "# The user that runs the agent may be its role, and the superuser.\npgvigil \"{user}\" {}\npgvigil \"{user}\" {}\n",
        config.superuser, config.control_user
    )
}

/// The agent's own way in, what the operator wants, the members among each other, and then everybody else.
fn hba(config: &InstanceConfig, others: &str) -> String {
    let InstanceConfig { superuser, control_user, replication_user, rewind_user, database, .. } = config;
    let extra: String = config.hba.iter().map(|line| format!("{line}\n")).collect();
    format!(
        "# Written by pgvigil; yours from here on, but keep the first rule.\n\
         local all {superuser},{control_user} peer map=pgvigil\n\
         {extra}\
         host replication {replication_user} all scram-sha-256\n\
         host {database} {rewind_user},{replication_user} all scram-sha-256\n\
         {others}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rules_of_a_stranger_stay_behind_ours_which_are_put_there_once() {
        let home = tempfile::tempdir().expect("a directory");
        let at = |name: &str| home.path().join(name);
        std::fs::write(at("postgres"), "").expect("writable");
        let config = InstanceConfig::new("pg1".parse().expect("good"), "c", at("d"), at("s"));
        let instance = Instance::new(InstanceConfig { bin_dir: at(""), ..config }).expect("good");
        let [ident, hba] = instance.rules_in_front("a b c\n", "host all all all md5\n").expect("good");
        assert!(
            hba.starts_with("# Written by pgvigil") && hba.ends_with("scram-sha-256\nhost all all all md5\n"),
            "{hba}"
        );
        let again = instance.rules_in_front(&ident, &hba).expect("good");
        assert_eq!(again, [ident, hba]);
    }

    #[test]
    fn the_agents_own_rule_comes_before_an_operators_and_before_those_of_a_backup() {
        let mut config = InstanceConfig::new("pg1".parse().expect("good"), "c", "/d".into(), "/s".into());
        config.hba = vec!["local all all reject".to_owned()];
        let text = hba(&config, "host all all 0.0.0.0/0 trust\n");
        assert!(text.find("map=pgvigil") < text.find("reject"), "{text}");
        assert!(text.find("reject") < text.find("0.0.0.0/0"), "{text}");
    }
}
