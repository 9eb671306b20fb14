//! Storms on the release binary, longer than a test run may take: `make chaos`, with SEEDS="1 2 3" and BLOWS=40 to choose.

use std::path::PathBuf;

use chaos::storm::storm;

/// The binary under test: `PGVIGIL`, or else the release build of this checkout.
fn binary() -> PathBuf {
    let built = || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/release/pgvigil"));
    std::env::var_os("PGVIGIL").map_or_else(built, PathBuf::from)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: make chaos"]
async fn no_storm_loses_an_acknowledged_row() {
    let seeds = std::env::var("SEEDS").unwrap_or_else(|_| "1 2 3".to_owned());
    let blows = std::env::var("BLOWS").ok().and_then(|blows| blows.parse().ok()).unwrap_or(20);
    for seed in seeds.split_whitespace().map(|seed| seed.parse::<u64>().expect("SEEDS are numbers")) {
        let outcome = storm(&binary(), seed, blows).await.expect("the cluster survives the storm");
        println!("seed {seed}: {outcome:?}");
        assert_eq!(outcome.lost, 0, "seed {seed}: acknowledged rows are lost");
    }
}
