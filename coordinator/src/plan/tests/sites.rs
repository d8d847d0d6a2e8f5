//! Sites with turns and limits of their own.

use super::*;

/// Ten servers, ums01 Main, by turns at north and south; what is said of the sites.
fn ten(north: &str, south: &str) -> Stage {
    let names: Vec<String> = (1..=10).map(|number| format!("ums{number:02}")).collect();
    let ids = |name: &str| labelled(if name == "ums01" { "a" } else { name }, "a");
    let servers: Vec<(&str, UmsIds)> = names.iter().map(|name| (name.as_str(), ids(name))).collect();
    let mut stage = Stage::new(&servers);
    for (number, server) in names.iter().enumerate() {
        let site = if number % 2 == 0 { "north" } else { "south" };
        stage.cluster.servers.get_mut(&name(server)).unwrap().site = Some(site.parse().unwrap());
    }
    for (site, text) in [("north", north), ("south", south)] {
        stage.cluster.sites.insert(site.parse().unwrap(), toml::from_str(text).unwrap());
    }
    stage
}

/// How many servers of this site may be disturbed at a time at most: the largest set of restores none of which waits for
/// another.
fn at_once(plan: &Plan, site: &str) -> u32 {
    let at = |step: &&Step| plan.servers[step.what.server().unwrap()].site.as_ref().unwrap().as_str() == site;
    let restores = plan.steps.iter().filter(|step| matches!(step.what, What::Restore { .. })).filter(at);
    let restores: Vec<u32> = restores.map(|step| step.no).collect();
    let among = |set: u32| {
        restores.iter().enumerate().filter(move |(bit, _)| set & (1 << bit) != 0).map(|(_, no)| *no)
    };
    let is_free = |set: &u32| {
        among(*set).all(|one| among(*set).all(|other| one == other || !comes_after(plan, one, other)))
    };
    (0..1 << restores.len()).filter(is_free).map(u32::count_ones).max().unwrap_or_default()
}

#[test]
fn of_a_site_so_many_are_disturbed_at_a_time_as_it_allows() {
    // Four targets at north, one of them the canary, and five at south.
    let wide = Request { batch: 9, ..Request::sync() };
    for (north, south, most) in
        [("", "", [1, 1]), ("max_down = 2", "", [2, 1]), ("max_down = 9", "max_down = 3", [3, 3])]
    {
        let (plan, _) = planned(&ten(north, south), &wide);
        assert_eq!(["north", "south"].map(|site| at_once(&plan, site)), most, "{north:?} {south:?}");
    }
    // The batch is a bound of its own.
    let (plan, _) = planned(&ten("max_down = 9", ""), &Request { batch: 2, ..Request::sync() });
    assert_eq!(at_once(&plan, "north"), 2);
}

#[test]
fn sites_have_their_turns_in_their_order() {
    let sites = |plan: &Plan, kind: fn(&What) -> bool| -> Vec<String> {
        let of = |step: &Step| plan.servers[step.what.server().unwrap()].site.as_ref().unwrap().to_string();
        plan.steps.iter().filter(|step| kind(&step.what)).map(of).collect()
    };
    let restores = |what: &What| matches!(what, What::Restore { .. });
    let restarts = |what: &What| matches!(what, What::Restart { .. });
    let wide = Request { batch: 9, ..Request::sync() };
    // By name unless it is said otherwise.
    assert_eq!(sites(&planned(&ten("", ""), &wide).0, restores)[0], "north");
    for (north, south) in [("order = 2", "order = 1"), ("", "order = 7")] {
        let (plan, _) = planned(&ten(north, south), &wide);
        let order = sites(&plan, restores);
        assert_eq!(order, [vec!["south"; 5], vec!["north"; 4]].concat(), "{north:?} {south:?}");
        // Whatever the batch, no site is begun before the one before it is done.
        let of = |site: &str, kind: fn(&What) -> bool| -> Vec<u32> {
            let at = |step: &&Step| {
                plan.servers[step.what.server().unwrap()].site.as_ref().unwrap().as_str() == site
            };
            plan.steps.iter().filter(|step| kind(&step.what)).filter(at).map(|step| step.no).collect()
        };
        let verified = of("south", |what| matches!(what, What::Verify { .. }));
        for north in of("north", restores) {
            assert!(verified.iter().all(|south| comes_after(&plan, north, *south)), "step {north}");
        }
        let restart = Request { kind: Kind::Restart, ..Request::sync() };
        let order = sites(&planned(&ten(north, south), &restart).0, restarts);
        assert_eq!(order, [vec!["south"; 5], vec!["north"; 5]].concat(), "{north:?} {south:?}");
    }
}

#[test]
fn what_is_said_of_a_site_without_servers_is_noted() {
    let mut stage = three();
    stage.cluster.sites.insert("nroth".parse().unwrap(), toml::from_str("order = 1").unwrap());
    let (plan, _) = planned(&stage, &Request::sync());
    assert_eq!(plan.notes, ["inventory.toml says something of site nroth, where no server stands"]);
}
