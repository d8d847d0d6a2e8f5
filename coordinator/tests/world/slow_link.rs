//! A slow and lossy line: it takes its time, and nothing else.

use std::time::{Duration, Instant};

use crate::link::Quality;
use crate::place::CLUSTER;
use crate::trials::nothing;
use crate::world::{at_home, behind_lines};

crate::tests!(nothing; a_sync_over_a_slow_and_lossy_line);

#[expect(clippy::print_stdout, reason = "the seed, to try it again with; and what it took")]
fn a_sync_over_a_slow_and_lossy_line() {
    let (place, before) = at_home(&[("backup_size", "300000")], &["ums2", "ums3"]);
    let seed =
        std::env::var("UMSID_SEED").ok().map_or_else(|| fastrand::u64(..), |seed| seed.parse().unwrap());
    println!("a line of 200 ms each way that loses 5 % of what it is given: UMSID_SEED={seed}");
    let quality = Quality { delay: Duration::from_millis(200), loss: 5, seed };
    let _lines = behind_lines(&place, quality);
    let since = Instant::now();
    let report = place.umsid(&["sync", CLUSTER, "--yes", "--settle", "0", "-o", "json"]).exits(0).report();
    println!("synchronized in {:.1?}, of which {} ms were the UMS's", since.elapsed(), report["ums_ms"]);
    assert_eq!(report["outcome"], "synchronized", "{report:#}");
    before.done_once(&place);
}
