//! The writes that an agent makes, each one guarded transaction. Read the guards: they are what keeps a frozen former leader, a second
//! agent under the same name and a withdrawn pledge from doing harm.

use std::collections::BTreeMap;

use decision::action::{Claim, ClaimKind};
use decision::names::{Lsn, MemberName, SystemId, Term, Timeline};
use decision::site::Token;
use decision::slots::Published;
use decision::view::{Ballot, SyncRecord};
use serde_json::Value;

use crate::error::Error;
use crate::guards::{Guard, Outcome, Write};
use crate::records::{self, FailoverRecord, HistoryRow, MemberRecord, Transition, pledge, progress, sync};
use crate::store::{Store, text_of};

/// The end of a bootstrap: the cluster gets its identity, its first leader and its first term.
#[derive(Clone, Debug)]
pub struct Bootstrap {
    /// Who bootstrapped.
    pub me: MemberName,
    /// The lease that `initialize` has been bound to since [`Store::begin_bootstrap`].
    pub member_lease: i64,
    /// The lease to hold the leader lock.
    pub lock_lease: i64,
    /// The identity that initdb gave.
    pub system_id: SystemId,
    /// The term that must still be the highest (0 where none ever was).
    pub after: Term,
    /// The first term of the new cluster.
    pub term: Term,
    /// The first durability record.
    pub sync: SyncRecord,
    /// Cluster-wide settings to begin with; `None` leaves what is there.
    pub config: Option<Value>,
}

/// A hand-over: the lock moves to a candidate that stands ready, without a gap.
#[derive(Clone, Debug)]
pub struct HandOver {
    /// The leader.
    pub me: MemberName,
    /// Its term.
    pub term: Term,
    /// Who is to lead.
    pub to: MemberName,
    /// The lock lease that the candidate has published.
    pub to_lease: i64,
    /// The candidate's term.
    pub new_term: Term,
    /// The durability record of the new leader, with the position that it must have replayed.
    pub sync: SyncRecord,
    /// The revision of the record that it replaces: once that has been written anew, this hand-over can never be.
    pub sync_revision: i64,
    /// The revision of the request that asked for it, which is fulfilled and removed; `None`: nobody asked.
    pub request_revision: Option<i64>,
}

impl Store {
    /// Writes what this agent says about itself, bound to its member lease. `Refused`: another living agent has this name (or this
    /// agent's own previous lease has not ended yet). What is bound to no lease is no agent's, and is written over.
    pub async fn register_member(
        &self,
        me: &MemberName,
        record: &MemberRecord,
        member_lease: i64,
    ) -> Result<Outcome, Error> {
        let key = self.keys().member(me);
        let writes = [Write::put_leased(&key, record.to_json(), member_lease)];
        let mine = Guard::LeaseOnKey { key: key.clone(), lease: member_lease };
        match self.commit(&[mine], &writes).await? {
            Outcome::Refused => self.commit(&[Guard::LeaseOnKey { key, lease: 0 }], &writes).await,
            applied => Ok(applied),
        }
    }

    /// Claims the right to run initdb. It ends by itself with the member lease, so that a crash frees it.
    pub async fn begin_bootstrap(&self, member_lease: i64) -> Result<Outcome, Error> {
        let key = self.keys().initialize();
        self.commit(&[Guard::absent(&key)], &[Write::put_leased(&key, "", member_lease)]).await
    }

    /// Gives the right to run initdb back, after a failure.
    pub async fn abandon_bootstrap(&self, member_lease: i64) -> Result<Outcome, Error> {
        let key = self.keys().initialize();
        self.commit(
            &[Guard::is(&key, ""), Guard::LeaseOnKey { key: key.clone(), lease: member_lease }],
            &[Write::delete(&key)],
        )
        .await
    }

    /// Gives the cluster its identity and makes the bootstrapper its first leader.
    pub async fn finish_bootstrap(&self, bootstrap: &Bootstrap) -> Result<Outcome, Error> {
        let keys = self.keys();
        let guards = [
            Guard::is(keys.initialize(), ""),
            Guard::LeaseOnKey { key: keys.initialize(), lease: bootstrap.member_lease },
            Guard::absent(keys.leader()),
            self.term_guard(bootstrap.after),
        ];
        let mut writes = vec![
            Write::put(keys.initialize(), bootstrap.system_id.to_string()),
            Write::put_leased(keys.leader(), bootstrap.me.as_str(), bootstrap.lock_lease),
            Write::put(keys.term(), bootstrap.term.to_string()),
            Write::put(keys.sync(), sync::to_stored(&bootstrap.sync)),
        ];
        if let Some(config) = &bootstrap.config {
            writes.push(Write::put(keys.config(), config.to_string()));
        }
        self.commit(&guards, &writes).await
    }

    /// Takes the leader lock: nobody holds it (or still the leader that is deposed), no term was given out since, `sync` and every
    /// counted ballot are unchanged, and the request that it answers is still there. My own ballot, of a term that has passed now, goes with it.
    pub async fn acquire(
        &self,
        me: &MemberName,
        lock_lease: i64,
        claim: &Claim,
        sync_revision: i64,
    ) -> Result<Outcome, Error> {
        self.acquire_on_record(me, lock_lease, claim, sync_revision, None).await
    }

    /// The same, and begins the record of the request that the claim answers: whoever asked for it finds that at every moment.
    pub async fn acquire_on_record(
        &self,
        me: &MemberName,
        lock_lease: i64,
        claim: &Claim,
        sync_revision: i64,
        begun: Option<&Transition>,
    ) -> Result<Outcome, Error> {
        let keys = self.keys();
        let lock = match &claim.depose {
            Some(leader) => Guard::is(keys.leader(), leader.as_str()),
            None => Guard::absent(keys.leader()),
        };
        let mut guards = vec![lock, self.term_guard(claim.after), Guard::unchanged(keys.sync(), sync_revision)];
        guards.extend(claim.ballots.iter().map(|(name, revision)| Guard::unchanged(keys.ballot(name), *revision)));
        guards.extend(claim.request.map(|revision| Guard::unchanged(keys.failover(), revision)));
        guards.extend(claim.failsafe_revision.map(|revision| Guard::unchanged(keys.failsafe(), revision)));
        let record = SyncRecord {
            leader: me.clone(),
            term: claim.term,
            mode: claim.mode,
            policies: claim.policies.clone(),
            timeline: claim.timeline,
            released: false,
            reclaimed: claim.kind == ClaimKind::Reclaim,
            handover_lsn: None,
            heir: None,
            follows: claim.follows,
        };
        let mut writes = vec![
            Write::put_leased(keys.leader(), me.as_str(), lock_lease),
            Write::put(keys.term(), claim.term.to_string()),
            Write::put(keys.sync(), sync::to_stored(&record)),
            Write::delete(keys.ballot(me)),
        ];
        writes.extend(claim.request.map(|_| Write::delete(keys.failover())));
        writes.extend(begun.map(|record| Write::put(keys.transition(&record.id), record.to_json())));
        self.commit(&guards, &writes).await
    }

    /// Binds the lock to a lease of the leader of `sync.term` again: nobody holds it, no term was given out since, and its record is
    /// unchanged, so nobody has led since. The record is written anew, which voids whatever of that leader is still on its way to etcd.
    /// `nonsense`: the revision of what somebody has put in the place of the lock and is no leader's, or 0; nobody takes it over that.
    pub async fn resume(
        &self,
        lock_lease: i64,
        sync: &SyncRecord,
        sync_revision: i64,
        nonsense: i64,
    ) -> Result<Outcome, Error> {
        let keys = self.keys();
        let unchanged = Guard::unchanged(keys.sync(), sync_revision);
        let guards = [Guard::unchanged(keys.leader(), nonsense), self.term_guard(sync.term), unchanged];
        let writes = [
            Write::put_leased(keys.leader(), sync.leader.as_str(), lock_lease),
            Write::put(keys.sync(), sync::to_stored(sync)),
        ];
        self.commit(&guards, &writes).await
    }

    /// The guards of a leader that replaces what it has seen at `key`: it still leads, and nobody else has changed that.
    fn leader_over(&self, me: &MemberName, term: Term, key: String, revision: i64) -> Vec<Guard> {
        let mut guards = self.leadership_guard(term, me).to_vec();
        guards.push(Guard::unchanged(key, revision));
        guards
    }

    /// Lists who may lead where no proof is asked for, with the URLs of their health APIs, if I still lead and the list is unchanged.
    pub async fn write_failsafe(
        &self,
        me: &MemberName,
        term: Term,
        listed: &BTreeMap<MemberName, String>,
        revision: i64,
    ) -> Result<Outcome, Error> {
        let guards = self.leader_over(me, term, self.keys().failsafe(), revision);
        self.commit(&guards, &[Write::put(self.keys().failsafe(), records::to_json(listed))]).await
    }

    /// Moves the lock to a candidate that is alive. [`Error::LeaseGone`]: its published lease does not live any more.
    pub async fn hand_over(&self, hand_over: &HandOver) -> Result<Outcome, Error> {
        let keys = self.keys();
        let mut guards = self.leader_over(&hand_over.me, hand_over.term, keys.sync(), hand_over.sync_revision);
        guards.push(Guard::KeyExists { key: keys.member(&hand_over.to) });
        guards.extend(hand_over.request_revision.map(|revision| Guard::unchanged(keys.failover(), revision)));
        let mut writes = vec![
            Write::put_leased(keys.leader(), hand_over.to.as_str(), hand_over.to_lease),
            Write::put(keys.term(), hand_over.new_term.to_string()),
            Write::put(keys.sync(), sync::to_stored(&hand_over.sync)),
        ];
        writes.extend(hand_over.request_revision.map(|_| Write::delete(keys.failover())));
        self.commit(&guards, &writes).await
    }

    /// Takes a hand-over back before its transaction: `sync` is the record without an heir, and the request goes with it. Once this is
    /// applied, that transaction can never be.
    pub async fn break_off_hand_over(
        &self,
        me: &MemberName,
        sync: &SyncRecord,
        sync_revision: i64,
        request_revision: i64,
    ) -> Result<Outcome, Error> {
        let keys = self.keys();
        let mut guards = self.leader_over(me, sync.term, keys.sync(), sync_revision);
        guards.push(Guard::unchanged(keys.failover(), request_revision));
        let writes = [Write::put(keys.sync(), sync::to_stored(sync)), Write::delete(keys.failover())];
        self.commit(&guards, &writes).await
    }

    /// Binds my leader key to another lease of mine (the first is about to be given up), without a gap and without a new term.
    pub async fn rebind_leader(&self, me: &MemberName, term: Term, lock_lease: i64) -> Result<Outcome, Error> {
        let writes = [Write::put_leased(self.keys().leader(), me.as_str(), lock_lease)];
        self.write_as_leader(me, term, &writes).await
    }

    /// Lets go of the lock, Postgres being dead. `sync` is a record with `released` set that covers all that was acknowledged, and takes the
    /// place of the one of `sync_revision`.
    pub async fn release(
        &self,
        me: &MemberName,
        term: Term,
        sync: &SyncRecord,
        sync_revision: i64,
    ) -> Result<Outcome, Error> {
        let keys = self.keys();
        let guards = self.leader_over(me, term, keys.sync(), sync_revision);
        let writes = [Write::delete(keys.leader()), Write::put(keys.sync(), sync::to_stored(sync))];
        self.commit(&guards, &writes).await
    }

    /// Lets go of the lock where `sync` says since `sync_revision` that it was released, and leaves the record as it is: the voters' claim
    /// names its revision.
    pub async fn let_go(&self, me: &MemberName, term: Term, sync_revision: i64) -> Result<Outcome, Error> {
        let guards = self.leader_over(me, term, self.keys().sync(), sync_revision);
        self.commit(&guards, &[Write::delete(self.keys().leader())]).await
    }

    /// Writes the durability record, if I still lead and nobody else has changed it.
    pub async fn record_sync(
        &self,
        me: &MemberName,
        term: Term,
        sync: &SyncRecord,
        sync_revision: i64,
    ) -> Result<Outcome, Error> {
        let guards = self.leader_over(me, term, self.keys().sync(), sync_revision);
        self.commit(&guards, &[Write::put(self.keys().sync(), sync::to_stored(sync))]).await
    }

    /// Writes that this site follows another from now on, and how far it has come, if I still lead and nobody else has changed the record. My
    /// Postgres has been stopped before: nobody here acknowledges anything any more.
    pub async fn demote_site(
        &self,
        me: &MemberName,
        sync: &SyncRecord,
        sync_revision: i64,
        token: &Token,
    ) -> Result<Outcome, Error> {
        let guards = self.leader_over(me, sync.term, self.keys().sync(), sync_revision);
        let writes = [
            Write::put(self.keys().sync(), sync::to_stored(sync)),
            Write::put(self.keys().site_token(), token.to_string()),
        ];
        self.commit(&guards, &writes).await
    }

    /// Writes the leader's WAL position and what it tells of its slots, if I still lead.
    pub async fn write_status(
        &self,
        me: &MemberName,
        term: Term,
        lsn: Lsn,
        slots: Option<&Published>,
    ) -> Result<Outcome, Error> {
        let writes = [Write::put(self.keys().status(), progress::status_to_stored(lsn, slots))];
        self.write_as_leader(me, term, &writes).await
    }

    /// Carries out any writes in the name of leadership.
    pub async fn write_as_leader(&self, me: &MemberName, term: Term, writes: &[Write]) -> Result<Outcome, Error> {
        self.commit(&self.leadership_guard(term, me), writes).await
    }

    /// Writes my pledge not to follow `ballot.revoked` any more, if that is still the highest term and my last ballot is that of
    /// `ballot.revision` (0: there is none). `Applied` carries the revision by which claims name the new one.
    pub async fn put_ballot(&self, me: &MemberName, ballot: &Ballot) -> Result<Outcome, Error> {
        let key = self.keys().ballot(me);
        let guards = [Guard::unchanged(&key, ballot.revision), self.term_guard(ballot.revoked)];
        self.commit(&guards, &[Write::put(key, pledge::ballot_to_stored(ballot))]).await
    }

    /// Takes my pledge back, if it is unchanged and its term is still the highest: after that, and only after, I may follow that term
    /// again. `Refused`: somebody may have counted it. An empty ballot stays in its place, so that one whose answer was lost, and which may
    /// still be on its way, finds another than it was to replace.
    pub async fn withdraw_ballot(&self, me: &MemberName, ballot: &Ballot) -> Result<Outcome, Error> {
        let key = self.keys().ballot(me);
        let guards = [Guard::unchanged(&key, ballot.revision), self.term_guard(ballot.revoked)];
        let empty = Ballot { revoked: Term(0), ..ballot.clone() };
        self.commit(&guards, &[Write::put(key, pledge::ballot_to_stored(&empty))]).await
    }

    /// Makes sure that a ballot of mine against `term` whose answer was lost never appears: an empty one takes the place that it was to take,
    /// over what was there at `revision` (0: nothing). `Refused`: it has appeared, or the term has passed.
    pub async fn void_ballot(&self, me: &MemberName, term: Term, revision: i64) -> Result<Outcome, Error> {
        let key = self.keys().ballot(me);
        let guards = [Guard::unchanged(&key, revision), self.term_guard(term)];
        self.commit(&guards, &[Write::put(key, pledge::ballot_to_stored(&pledge::empty_ballot(0)))]).await
    }

    /// Stores an operator's request unless another one waits. `Applied` carries the revision that is its identity.
    pub async fn request_failover(&self, record: &FailoverRecord) -> Result<Outcome, Error> {
        self.request_where(record, &[]).await
    }

    /// The same, only while these guards hold as well.
    pub(crate) async fn request_where(&self, record: &FailoverRecord, also: &[Guard]) -> Result<Outcome, Error> {
        let key = self.keys().failover();
        let writes = [Write::put(&key, record.to_json())];
        let with = |guard: Guard| also.iter().cloned().chain([guard]).collect::<Vec<_>>();
        match self.commit(&with(Guard::absent(&key)), &writes).await? {
            Outcome::Refused => self.commit(&with(Guard::is(&key, "{}")), &writes).await,
            applied => Ok(applied),
        }
    }

    /// Takes a request off the table, if it is still the same one.
    pub async fn remove_request(&self, revision: i64) -> Result<Outcome, Error> {
        let key = self.keys().failover();
        self.commit(&[Guard::unchanged(&key, revision)], &[Write::delete(key)]).await
    }

    /// Adds where a timeline ended to the history, if I still lead; a row about the same timeline is replaced. A history that cannot be read
    /// helps nobody, and every node that returns waits for it: it is written anew, from `ancestors` (the rows before, oldest first).
    pub async fn append_history(
        &self,
        me: &MemberName,
        term: Term,
        ancestors: &[HistoryRow],
        row: &HistoryRow,
    ) -> Result<Outcome, Error> {
        let key = self.keys().history();
        let found = self.read_keys(&[&key]).await?;
        let stored = found.get(&key);
        let read = stored.map_or(Ok(Vec::new()), |kv| progress::history_from_stored(&text_of(kv)));
        let mut rows = read.unwrap_or_else(|why| {
            tracing::warn!(key, why, "the history of timelines cannot be read: it is written anew");
            ancestors.to_vec()
        });
        rows.retain(|old| old.timeline != row.timeline);
        rows.push(row.clone());
        let revision = stored.map_or(0, etcd_client::KeyValue::mod_revision);
        let guards = self.leader_over(me, term, key.clone(), revision);
        self.commit(&guards, &[Write::put(key, progress::history_to_stored(&rows))]).await
    }

    /// Remembers that `timeline` is taken, by a promotion that is in no history, so that no promotion takes the number again.
    pub async fn note_stray_timeline(&self, timeline: Timeline) -> Result<Outcome, Error> {
        let key = self.keys().stray_timeline();
        let found = self.read_keys(&[&key]).await?;
        let stored = found.get(&key);
        let known = stored.and_then(|kv| progress::timeline_from_stored(&text_of(kv)).ok());
        if known.is_some_and(|known| known >= timeline) {
            return Ok(Outcome::Refused);
        }
        let revision = stored.map_or(0, etcd_client::KeyValue::mod_revision);
        self.commit(&[Guard::unchanged(&key, revision)], &[Write::put(key, timeline.to_string())]).await
    }

    /// Remembers that `member` has forgotten WAL below `lsn` that it had acknowledged, so that it does not vote until it has regained it.
    pub async fn set_floor(&self, member: &MemberName, lsn: Lsn) -> Result<Outcome, Error> {
        self.commit(&[], &[Write::put(self.keys().floor(member), pledge::floor_to_stored(lsn))]).await
    }

    /// Forgets the floor, if it is still `lsn`.
    pub async fn clear_floor(&self, member: &MemberName, lsn: Lsn) -> Result<Outcome, Error> {
        let key = self.keys().floor(member);
        self.commit(&[Guard::is(&key, pledge::floor_to_stored(lsn))], &[Write::delete(key)]).await
    }
}
