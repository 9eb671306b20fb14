//! Orders to single nodes. An order is given where none is waiting, and taken by its node in the transaction that begins its record: whoever dies
//! after that does not obey twice.

use decision::names::MemberName;

use crate::condition::Condition;
use crate::error::Error;
use crate::guards::{Guard, Outcome, Write};
use crate::records::{OrderRecord, Transition};
use crate::store::Store;

impl Store {
    /// Gives a node an order; `Refused`: another waits there.
    ///
    /// # Errors
    /// etcd does not answer.
    pub async fn give_order(&self, to: &MemberName, order: &OrderRecord) -> Result<Outcome, Error> {
        self.give_order_while(&Condition::default(), to, order).await
    }

    /// The same only on this condition. `Refused`: another order waits, or it is not so any more: another leads, or a hold was taken.
    ///
    /// # Errors
    /// etcd does not answer.
    pub async fn give_order_while(
        &self,
        condition: &Condition,
        to: &MemberName,
        order: &OrderRecord,
    ) -> Result<Outcome, Error> {
        let key = self.keys().order(to);
        let mut guards = condition.guards(self.keys());
        guards.push(Guard::absent(&key));
        self.commit(&guards, &[Write::put(&key, order.to_json())]).await
    }

    /// Takes my order of this revision away and begins its record; `Refused`: it is gone, or another.
    ///
    /// # Errors
    /// etcd does not answer.
    pub async fn take_order(&self, me: &MemberName, revision: i64, record: &Transition) -> Result<Outcome, Error> {
        self.take_order_while(&Condition::default(), me, revision, record).await
    }

    /// The same only on this condition, which is the hold that was seen. `Refused`: also where one was taken meanwhile.
    ///
    /// # Errors
    /// etcd does not answer.
    pub async fn take_order_while(
        &self,
        condition: &Condition,
        me: &MemberName,
        revision: i64,
        record: &Transition,
    ) -> Result<Outcome, Error> {
        let (key, begun) = (self.keys().order(me), self.keys().transition(&record.id));
        let mut guards = condition.guards(self.keys());
        guards.extend([Guard::unchanged(&key, revision), Guard::absent(&begun)]);
        self.commit(&guards, &[Write::delete(&key), Write::put(begun, record.to_json())]).await
    }

    /// Takes an order back that has not been taken up, with the record that says so; `Refused`: it is gone, or begun.
    ///
    /// # Errors
    /// etcd does not answer.
    pub async fn cancel_order(&self, to: &MemberName, revision: i64, record: &Transition) -> Result<Outcome, Error> {
        self.withdraw(self.keys().order(to), revision, record).await
    }

    /// The same for a request.
    ///
    /// # Errors
    /// etcd does not answer.
    pub async fn withdraw_request(&self, revision: i64, record: &Transition) -> Result<Outcome, Error> {
        self.withdraw(self.keys().failover(), revision, record).await
    }

    pub(crate) async fn withdraw(&self, key: String, revision: i64, record: &Transition) -> Result<Outcome, Error> {
        let told = self.keys().transition(&record.id);
        let guards = [Guard::unchanged(&key, revision), Guard::absent(&told)];
        self.commit(&guards, &[Write::delete(key), Write::put(told, record.to_json())]).await
    }
}
