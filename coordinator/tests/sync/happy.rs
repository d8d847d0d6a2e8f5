//! Nothing goes wrong.

use crate::place::Place;

#[test]
fn a_cluster_out_of_sync_is_brought_back() {
    let place = Place::broken(&["ums2", "ums3"]);
    place.umsid(&["status"]).exits(3).shows("not-in-sync");
    let plan = place.umsid(&["plan", "hamburg", "--settle", "0"]).exits(0).shows("restore the Main UMS ID");
    // ums1 and ums3 stand at the same site, which comes first.
    assert!(plan.out.contains("to be synchronized: ums3 (not-in-sync, the canary), ums2"), "{}", plan.out);
    let sync = place.umsid(&["sync", "hamburg", "--yes", "--settle", "0"]).exits(0);
    assert!(sync.out.contains(": synchronized after"), "{}", sync.out);
    place.is_well();
    let status = place.umsid(&["status"]).exits(0);
    assert!(!status.out.contains("not-in-sync"), "{}", status.out);
    let starts = place.starts();
    place.umsid(&["sync", "--yes"]).exits(0).shows("nothing to do, all 3 servers are in sync");
    assert_eq!(place.starts(), starts, "a second sync restarts nothing");
}
