//! Storms over real clusters: random faults from a seed, one after another, under a client that knows every acknowledged row. A storm
//! that loses a row prints its seed and its course, and the same seed brings the same course.

pub mod course;
pub mod storm;
