//! Which messages arrive. Each direction of each link can be cut, by several faults at once; etcd is the place behind the last node.

use crate::world::At;

#[derive(Clone, Debug)]
pub struct Links {
    places: usize,
    /// How many faults cut the way from one place to another.
    cuts: Vec<u32>,
}

impl Links {
    pub fn new(nodes: usize) -> Self {
        let places = nodes + 1;
        Self { places, cuts: vec![0; places * places] }
    }

    /// The place of etcd.
    pub fn etcd(&self) -> At {
        self.places - 1
    }

    pub fn cut(&mut self, from: At, to: At) {
        self.cuts[from * self.places + to] += 1;
    }

    pub fn join(&mut self, from: At, to: At) {
        let cuts = &mut self.cuts[from * self.places + to];
        *cuts = cuts.saturating_sub(1);
    }

    pub fn carries(&self, from: At, to: At) -> bool {
        self.cuts[from * self.places + to] == 0
    }

    pub fn both_ways(&self, one: At, other: At) -> bool {
        self.carries(one, other) && self.carries(other, one)
    }
}
