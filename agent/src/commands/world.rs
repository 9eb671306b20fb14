//! Where a command begins: with the configuration of the node it runs on.

use super::screen::tell;
use crate::cli::{ConfigArg, Exit, other_configs};
use crate::config;

pub use crate::operate::world::{AGENT_WITHIN, Answer, Reach, World};

impl Reach {
    /// With which code a command ends that gets no answer from etcd, or from an agent.
    pub fn silence(&self) -> Exit {
        let turned_away = self.store.endpoints().turned_away() || self.peers.turned_away();
        if turned_away { Exit::Unauthorised } else { Exit::Unreachable }
    }

    /// Loads the configuration; mistakes are told.
    pub fn new(argument: &ConfigArg) -> Result<Self, Exit> {
        let config = config::load(&argument.config, std::env::vars()).map_err(|errors| {
            tell(&errors.to_string());
            if let Some(mend) = other_configs(&argument.config) {
                tell(&format!("HINT: {mend}"));
            }
            Exit::Usage
        })?;
        Self::of(config).map_err(|error| {
            tell(&format!("error: {error:#}"));
            Exit::Usage
        })
    }
}
