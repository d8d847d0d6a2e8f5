//! What `ansible-inventory --list` of ansible-core 2.19 printed of the inventories beside it.

use super::*;

const HAMBURG: &str = include_str!("fixtures/hamburg.json");
const EXPORTED: &str = include_str!("fixtures/exported.json");
const BERLIN: &str = include_str!("fixtures/berlin.json");

fn of(text: &str, groups: &[&str], sites: &[&str], site: Option<&str>) -> Result<Vec<Found>, AnsibleError> {
    let groups: Vec<String> = groups.iter().map(|group| (*group).to_owned()).collect();
    let sites: Vec<SiteGroup> = sites.iter().map(|site| site.parse().unwrap()).collect();
    let (cluster, site) = ("hamburg".parse().unwrap(), site.map(|site| site.parse().unwrap()));
    Listing::parse(text)?.servers(&Wanted {
        groups: &groups,
        cluster: &cluster,
        sites: &sites,
        site: site.as_ref(),
    })
}

/// `host name place site`
fn lines(found: &[Found]) -> Vec<String> {
    let line = |found: &Found| {
        let Candidate { name, site, address, via, .. } = &found.candidate;
        let place = via.as_ref().map_or_else(|| address.clone(), |via| format!("via:{via}"));
        format!("{} {name} {place} {}", found.host, site.as_ref().map_or("-", SiteName::as_str))
    };
    found.iter().map(line).collect()
}

fn unfit(refused: AnsibleError) -> BTreeMap<String, String> {
    let AnsibleError::Hosts(unfit) = refused else { panic!("{refused:?}") };
    unfit.into_iter().map(|unfit| (unfit.host, format!("{}; {}", unfit.why, unfit.remedy))).collect()
}

#[test]
fn hosts_of_a_group_become_servers() {
    let found = of(HAMBURG, &["ums_hamburg"], &["north", "south=sued"], None).unwrap();
    assert_eq!(
        lines(&found),
        [
            "ums1.north.example.com ums1.north.example.com ums1.north.example.com:8643 north",
            "ums2.north.example.com ums2.north.example.com ums2.north.example.com:8643 north",
            "ums3.north.example.com ums3.north.example.com ums3.north.example.com:8643 north",
            // 2222 is the port of ssh.
            "UMS4 ums4 192.0.2.14:8643 north",
            "ums5 ums5 [2001:db8::5]:9643 sued",
            "ums6 ums6 via:ums5 sued",
            "ums7 ums-seven ums7.mgmt.example.com:8700 cellar",
        ]
    );
}

#[test]
fn no_host_is_taken_that_was_not_meant() {
    let found = of(HAMBURG, &["south", "ums_hamburg", "south"], &[], Some("here")).unwrap();
    let hosts: BTreeSet<&str> = found.iter().map(|found| found.host.as_str()).collect();
    assert_eq!((found.len(), hosts.len()), (7, 7), "one host is one server, whatever groups it is in");
    assert!(!hosts.contains("web1") && !hosts.contains("bastion.example.com"));
    assert!(lines(&found).iter().all(|line| line.ends_with(" here") || line.ends_with(" cellar")));
    assert_eq!(of(HAMBURG, &["all"], &[], None).unwrap().len(), 9);
}

#[test]
fn what_is_no_group_is_told_with_those_there_are() {
    let refused = of(HAMBURG, &["ums_hambourg"], &[], None).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "the Ansible inventory has no group `ums_hambourg`; its groups are all, north, south, ums_hamburg, ungrouped, web"
    );
    assert!(matches!(of(HAMBURG, &["web"], &["nord"], None), Err(AnsibleError::NoGroup { .. })));
    // Named as a child only: Ansible leaves out what has no hosts.
    assert!(matches!(of(BERLIN, &["empty"], &[], None), Err(AnsibleError::NoHosts(_))));
}

#[test]
fn every_host_that_does_not_do_is_told_at_once() {
    let wrong = unfit(of(BERLIN, &["ums_berlin"], &["first=a", "second=b"], Some("c")).unwrap_err());
    let said = |host: &str, what: &[&str]| {
        let why = wrong.get(host).unwrap_or_else(|| panic!("{host} in {wrong:#?}"));
        assert!(what.iter().all(|what| why.contains(what)), "{host}: {why}");
    };
    said("b1", &["`{{ management_address }}`, which only Ansible itself can fill in", "set umsid_address"]);
    said("b2", &["two sites, a and b", "set umsid_site"]);
    said("b_-", &["is no server name", "set umsid_name"]);
    said("b6", &["two names, `seven` and `six`"]);
    said("b8", &["umsid_site is neither text nor a number"]);
    // Taken are b3, B2 and b7; B2 has the name of b2 only where that does.
    assert_eq!(wrong.len(), 5, "{wrong:#?}");
    let wrong = unfit(of(BERLIN, &["ums_berlin"], &[], None).unwrap_err());
    assert!(wrong["B2"].starts_with("b2 would be called b2 too"), "{wrong:#?}");
    // One host at 8644 by number, the other by text.
    assert!(wrong["b3"].starts_with("192.0.2.22:8644 is the address of b2 too"), "{wrong:#?}");
}

#[test]
fn a_host_of_no_site_is_not_passed_over() {
    let wrong = unfit(of(HAMBURG, &["ums_hamburg"], &["north"], None).unwrap_err());
    assert_eq!(wrong.keys().collect::<Vec<_>>(), ["ums5", "ums6"]);
    assert!(wrong["ums5"].contains("none of the groups"), "{wrong:#?}");
}

#[test]
fn what_ansible_does_not_print_so_is_refused_with_the_command() {
    for other in [
        "",
        "[ums]\nums1\n",
        "ums:\n  hosts:\n",
        "[]",
        "{}",
        r#"{"_meta": {"hostvars": {}}, "ums": ["ums1"]}"#,
    ] {
        let refused = Listing::parse(other).unwrap_err();
        assert!(matches!(refused, AnsibleError::NotAListing(_)), "{other}");
        assert!(
            refused.remedy().contains("ansible-inventory -i YOUR-INVENTORY --list"),
            "{}",
            refused.remedy()
        );
    }
    // Its group has `ansible_user` only, which does not matter here.
    assert!(of(EXPORTED, &["ums_hamburg"], &[], None).is_ok());
    let exported = EXPORTED.replace(r#""ansible_user": "ops""#, r#""umsid_site": "north""#);
    assert_ne!(exported, EXPORTED);
    let refused = of(&exported, &["ums_hamburg"], &[], None).unwrap_err();
    assert!(matches!(&refused, AnsibleError::NotMerged { group, .. } if group == "ums_hamburg"), "{refused}");
    assert!(refused.remedy().contains("without --export"));
}

#[test]
fn groups_that_hold_each_other_come_to_an_end() {
    let text = r#"{"_meta": {"hostvars": {}}, "a": {"children": ["b"], "hosts": ["one"]}, "b": {"children": ["a"]}}"#;
    assert_eq!(lines(&of(text, &["b"], &[], None).unwrap()), ["one one one:8643 -"]);
}
