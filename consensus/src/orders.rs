//! Orders to single nodes. An order is given where none is waiting, and taken by its node in the transaction that begins its record: whoever dies
//! after that does not obey twice.

use decision::names::MemberName;

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
        let key = self.keys().order(to);
        self.commit(&[Guard::absent(&key)], &[Write::put(&key, order.to_json())]).await
    }

    /// Takes my order of this revision away and begins its record; `Refused`: it is gone, or another.
    ///
    /// # Errors
    /// etcd does not answer.
    pub async fn take_order(&self, me: &MemberName, revision: i64, record: &Transition) -> Result<Outcome, Error> {
        let (key, begun) = (self.keys().order(me), self.keys().transition(&record.id));
        let guards = [Guard::unchanged(&key, revision), Guard::absent(&begun)];
        self.commit(&guards, &[Write::delete(&key), Write::put(begun, record.to_json())]).await
    }

    /// Takes an order back that has not been taken up.
    ///
    /// # Errors
    /// etcd does not answer.
    pub async fn cancel_order(&self, to: &MemberName, revision: i64) -> Result<Outcome, Error> {
        let key = self.keys().order(to);
        self.commit(&[Guard::unchanged(&key, revision)], &[Write::delete(&key)]).await
    }
}
