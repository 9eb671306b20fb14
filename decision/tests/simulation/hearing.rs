//! What a node hears of the leader: its agent is asked ten times a second, and its Postgres as well once the agent has missed one. A leader
//! that gives up says so itself.

use decision::names::Term;
use decision::view::{Hearing, Sound};

use crate::time::{MS, Micros, duration, micros};
use crate::world::{At, Event, Part, World};

const EVERY: Micros = 100 * MS;
/// An answer this late counts as missing.
const LATE: Micros = 150 * MS;

#[derive(Clone, Copy, Debug, Default)]
pub struct Ear {
    heard: Option<Micros>,
    unanswered_since: Option<Micros>,
    refused: bool,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Ears {
    target: Option<(At, Term)>,
    agent: Ear,
    postgres: Ear,
    /// The leader's agent has said that its Postgres is done for, and not taken it back.
    dead: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Said {
    Yes,
    Refused,
    Nothing,
}

impl Ear {
    fn hear(&mut self, said: Said, sent: Micros) {
        if said == Said::Yes {
            *self = Ear { heard: Some(sent), unanswered_since: None, refused: false };
        } else {
            self.unanswered_since.get_or_insert(sent);
            self.refused = said == Said::Refused;
        }
    }

    fn sound(&self, was_heard: bool, now: Micros) -> Sound {
        match self.unanswered_since {
            Some(_) if self.refused => Sound::Gone,
            Some(since) if was_heard => Sound::Silent { since: duration(now.saturating_sub(since)) },
            Some(_) => Sound::Unknown,
            None if self.heard.is_some() => Sound::Fine,
            None => Sound::Unknown,
        }
    }
}

impl World {
    /// Listens to whoever leads now; of a new leader nothing is known yet.
    pub fn listen_to_the_leader(&mut self, at: At) {
        let target = self.nodes[at].agent.picture.as_ref().and_then(|picture| {
            let leader = picture.cluster.leader.as_ref()?;
            let registered = picture.cluster.members.contains_key(leader);
            let place = self.place(leader)?;
            (registered && place != at).then_some((place, picture.cluster.term))
        });
        let ears = &mut self.nodes[at].agent.ears;
        if ears.target != target {
            *ears = Ears { target, ..Ears::default() };
        }
    }

    pub fn beat(&mut self, at: At, life: u32) {
        let agent = &self.nodes[at].agent;
        if !agent.up || agent.life != life {
            return;
        }
        self.after_local(at, EVERY, Event::Beat { at, life });
        let Some((leader, term)) = self.nodes[at].agent.ears.target else { return };
        let local = self.local(at);
        let (agent_said, postgres_said) = (self.agent_says(at, leader), self.postgres_says(at, leader));
        let given_up = (self.gives_up(leader, term), self.says_that_it_leads(leader));
        let ears = &mut self.nodes[at].agent.ears;
        let doubt = ears.agent.unanswered_since.is_some();
        if agent_said != Said::Yes || doubt {
            ears.postgres.hear(postgres_said, local);
        } else {
            ears.postgres = Ear::default();
        }
        ears.agent.hear(agent_said, local);
        if agent_said == Said::Yes {
            let (gives_up, leads) = given_up;
            ears.dead = gives_up || (ears.dead && !leads);
        }
        match agent_said {
            Said::Yes | Said::Refused if doubt || ears.dead || agent_said == Said::Refused => self.wake_soon(at),
            Said::Yes | Said::Refused => {}
            Said::Nothing => self.wake_later(at, LATE),
        }
    }

    /// Whether its agent says, under this term, that it gives up.
    fn gives_up(&self, leader: At, term: Term) -> bool {
        let seen = self.nodes[leader].agent.picture.as_ref();
        self.job_action(leader) == Some("abdicate") && seen.is_some_and(|seen| seen.cluster.term == term)
    }

    fn says_that_it_leads(&self, leader: At) -> bool {
        let seen = self.nodes[leader].agent.picture.as_ref();
        seen.is_some_and(|seen| seen.cluster.leader.as_ref() == Some(&self.names[leader]))
    }

    fn reaches(&self, at: At, leader: At) -> bool {
        self.links.both_ways(at, leader) && self.nodes[leader].powered
    }

    fn agent_says(&self, at: At, leader: At) -> Said {
        if !self.reaches(at, leader) {
            Said::Nothing
        } else if !self.nodes[leader].agent.up {
            // A host that stands still does not even refuse.
            if self.stands_still(leader, Part::Fence) { Said::Nothing } else { Said::Refused }
        } else if self.stands_still(leader, Part::Agent) {
            Said::Nothing
        } else {
            Said::Yes
        }
    }

    fn postgres_says(&self, at: At, leader: At) -> Said {
        if !self.reaches(at, leader) || self.stands_still(leader, Part::Postgres) {
            Said::Nothing
        } else if self.nodes[leader].postgres.has_postmaster() {
            Said::Yes
        } else {
            Said::Refused
        }
    }

    /// As a decision sees it: WAL that has only just come in is as good a sign of life as an answer.
    pub fn hearing(&self, at: At) -> Hearing {
        let local = self.local(at);
        let ears = &self.nodes[at].agent.ears;
        let term = self.nodes[at].agent.picture.as_ref().map(|picture| picture.cluster.term);
        if ears.target.map(|(_, of)| of) != term {
            return Hearing::default();
        }
        let was_heard = ears.agent.heard.is_some();
        let lately = micros(self.settings_of_house().timing.suspect_after) / 2;
        let receiver = self.nodes[at].postgres.receiver.as_ref();
        // What comes from another standby says nothing of the leader.
        let leader = ears.target.map(|(leader, _)| leader);
        let of_the_leader = receiver.filter(|receiver| Some(receiver.upstream) == leader);
        let streams = of_the_leader.is_some_and(|receiver| self.now - receiver.last_message < lately);
        let postgres = match ears.postgres.sound(was_heard, local) {
            _ if ears.dead => Sound::ReportedDead,
            Sound::Silent { .. } | Sound::Unknown if streams => Sound::Fine,
            sound => sound,
        };
        Hearing { agent: ears.agent.sound(was_heard, local), postgres }
    }
}
