use super::*;

fn window(text: &str) -> Window {
    text.parse().unwrap()
}

/// As `2026-11-29T02:30[Europe/Berlin]`.
fn at(text: &str) -> Zoned {
    text.parse().unwrap()
}

fn berlin(text: &str) -> Zoned {
    at(&format!("{text}[Europe/Berlin]"))
}

fn minutes(minutes: i64) -> Option<SignedDuration> {
    Some(SignedDuration::from_mins(minutes))
}

#[test]
fn it_is_open_from_its_beginning_until_just_before_its_end() {
    // A Sunday.
    let sunday = window("Sun 02:00-04:00");
    for (time, room) in [
        ("2026-11-29T01:59:59", None),
        ("2026-11-29T02:00", minutes(120)),
        ("2026-11-29T03:59", minutes(1)),
        ("2026-11-29T04:00", None),
        ("2026-11-28T02:30", None),
    ] {
        assert_eq!(sunday.room(&berlin(time)), room, "{time}");
    }
    let now = berlin("2026-11-29T02:30");
    let fits =
        |now: &Zoned, minutes| fits(&[window("Sun 02:00-04:00")], now, SignedDuration::from_mins(minutes));
    assert!(fits(&now, 90));
    assert!(!fits(&now, 91));
    assert!(!fits(&berlin("2026-11-29T05:00"), 0));
}

#[test]
fn over_midnight_it_belongs_to_the_day_it_began_on() {
    let nights = window("Mon-Fri 22:00-05:00");
    // Friday's goes on until Saturday morning; on Saturday none begins; Sunday's night is not meant.
    for (time, room) in [
        ("2026-11-27T23:00", minutes(360)),
        ("2026-11-28T04:00", minutes(60)),
        ("2026-11-28T23:00", None),
        ("2026-11-30T04:00", None),
        ("2026-11-30T22:00", minutes(420)),
    ] {
        assert_eq!(nights.room(&berlin(time)), room, "{time}");
    }
    assert_eq!(nights.next(&berlin("2026-11-28T04:00")), berlin("2026-11-30T22:00"));
}

#[test]
fn windows_that_touch_are_one() {
    let weekend = window("Sat,Sun 00:00-24:00");
    assert_eq!(weekend.room(&berlin("2026-11-28T12:00")), minutes(36 * 60));
    assert_eq!(weekend.room(&berlin("2026-11-30T00:00")), None);
    let always = window("daily 00:00-24:00").room(&berlin("2026-11-28T12:00")).unwrap();
    assert!(always > SignedDuration::from_hours(7 * 24), "{always}");
}

#[test]
fn those_of_a_list_that_touch_are_one() {
    let list = ["Sun 02:00-04:00", "Sat 22:00-24:00", "Sun 00:00-02:00", "Sun 05:00-06:00"].map(window);
    // From Saturday at ten in the evening until Sunday at four.
    assert_eq!(room(&list, &berlin("2026-11-28T23:00")), minutes(300));
    assert_eq!(room(&list, &berlin("2026-11-29T04:30")), None);
    let next = |now, hours| next_for(&list, &berlin(now), SignedDuration::from_hours(hours));
    assert_eq!(next("2026-11-27T12:00", 6), Some(berlin("2026-11-28T22:00")));
    assert_eq!(next("2026-11-29T00:30", 4), Some(berlin("2026-12-05T22:00")));
    assert_eq!(next("2026-11-29T04:30", 1), Some(berlin("2026-11-29T05:00")));
    assert_eq!(next("2026-11-27T12:00", 7), None);
    // Whatever clock each of them is read off: in winter Berlin's is an hour ahead.
    let zones = ["Sun 02:00-04:00 Europe/Berlin", "Sun 03:00-05:00 UTC"].map(window);
    assert_eq!(room(&zones, &at("2026-11-29T01:00[UTC]")), minutes(240));
}

#[test]
fn the_next_one_is_later_than_now() {
    let sunday = window("Sun 02:00-04:00");
    assert_eq!(sunday.next(&berlin("2026-11-27T10:00")), berlin("2026-11-29T02:00"));
    assert_eq!(sunday.next(&berlin("2026-11-29T02:00")), berlin("2026-12-06T02:00"));
    assert_eq!(window("daily 01:00-03:00").next(&berlin("2026-11-29T02:00")), berlin("2026-11-30T01:00"));
}

#[test]
fn a_zone_of_its_own_wins_over_that_of_whoever_asks() {
    let now = at("2026-11-29T01:30[UTC]");
    assert_eq!(window("Sun 02:00-04:00").room(&now), None);
    let there = window("Sun 02:00-04:00 Europe/Berlin");
    assert_eq!(there.room(&now), minutes(90));
    assert_eq!(there.next(&now), berlin("2026-12-06T02:00"));
}

#[test]
fn what_the_clock_skips_is_no_part_of_it() {
    // On 29 March 2026 it is 03:00 after 01:59.
    let from = |text| window(text).room(&berlin("2026-03-29T03:00"));
    assert_eq!(from("Sun 02:00-04:00"), minutes(60));
    assert_eq!(from("Sun 02:30-04:00"), minutes(60));
    assert_eq!(window("Sun 01:00-02:30").room(&berlin("2026-03-29T01:30")), minutes(30));
    let skipped = window("Sun 02:15-02:45");
    assert_eq!(skipped.room(&berlin("2026-03-29T03:20")), None);
    assert_eq!(skipped.next(&berlin("2026-03-28T12:00")), berlin("2026-04-05T02:15"));
}

#[test]
fn an_hour_that_comes_twice_makes_none_longer() {
    // On 25 October 2026 it is 02:00 again after 02:59: first at +02:00, then at +01:00.
    let first = at("2026-10-25T02:30+02:00[Europe/Berlin]");
    let last = at("2026-10-25T02:30+01:00[Europe/Berlin]");
    let room = |text: &str, now| window(text).room(now);
    assert_eq!((room("Sun 02:00-04:00", &first), room("Sun 02:00-04:00", &last)), (None, minutes(90)));
    assert_eq!((room("Sun 01:00-02:45", &first), room("Sun 01:00-02:45", &last)), (minutes(15), None));
    assert_eq!((room("Sun 02:15-02:45", &first), room("Sun 02:15-02:45", &last)), (None, minutes(15)));
    // One that has the whole of it is longer by the wall's clock, which says nothing of it.
    assert_eq!(room("Sun 01:00-05:00", &last), minutes(150));
}

#[test]
fn it_is_written_as_it_is_read() {
    for (given, written) in [
        ("Sun 02:00-04:00", "Sun 02:00-04:00"),
        ("  mon-FRI   22:00-05:00 ", "Mon-Fri 22:00-05:00"),
        ("Mon-Sun 01:00-03:00", "daily 01:00-03:00"),
        ("daily 00:00-24:00", "daily 00:00-24:00"),
        ("Fri-Mon 22:00-00:00", "Mon,Fri-Sun 22:00-24:00"),
        ("Sun,Sat 01:00-02:00 Europe/Berlin", "Sat,Sun 01:00-02:00 Europe/Berlin"),
    ] {
        let read = window(given);
        assert_eq!(read.to_string(), written);
        assert_eq!(window(written), read, "{written}");
        let json = serde_json::to_string(&read).unwrap();
        assert_eq!(serde_json::from_str::<Window>(&json).unwrap(), read, "{json}");
    }
}

#[test]
fn what_is_none_is_refused_with_the_part_at_fault() {
    for (given, why) in [
        ("", "it wants days and times"),
        ("Sun", "it wants days and times"),
        ("Sun 02:00 - 04:00", "it wants days and times"),
        ("Son 02:00-04:00", "`Son` is no day"),
        ("Mon- 02:00-04:00", "`` is no day"),
        ("Sun 02:00", "are no two times"),
        ("Sun 2:00-04:00", "`2:00` is no time"),
        ("Sun 02:60-04:00", "`02:60` is no time"),
        ("Sun 24:00-04:00", "`24:00` is no time"),
        ("Sun 02:00-+4:00", "`+4:00` is no time"),
        ("Sun 02:00-02:00", "it ends when it begins"),
        ("Sun 02:00-04:00 Europe/Hamburg", "no time zone `Europe/Hamburg` is known here"),
    ] {
        let error = given.parse::<Window>().unwrap_err().to_string();
        assert!(error.contains(why), "{given:?}: {error}");
    }
}
