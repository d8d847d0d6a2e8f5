//! `umsid watch`: who is told what, when, and how often; and when it may synchronize.

use std::net::TcpListener;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use umsid_common::durable::{self, Access};
use umsid_testkit::wait_for_blocking;

use crate::house::{Host, House, Running, SOON};
use crate::place::{CLUSTER, Place};
use crate::receivers::{Certificate, Hook, MailServer, Speech};

/// Two servers in sync, and a `watch.toml`.
struct Watched {
    house: House,
    hosts: [Host; 2],
    running: Vec<Running>,
}

const KEY: &str = "the key of the signature";

impl Watched {
    fn new() -> Self {
        let (house, hosts) = (House::new(), [Host::new("main"), Host::new("main")]);
        house.enrol(&hosts[0], "ums1");
        house.enrol(&hosts[1], "ums2");
        let running = hosts.iter().map(Host::runs).collect();
        private(&house.state().join("key"), &format!("{KEY}\n"));
        Self { house, hosts, running }
    }

    fn config(&self) -> String {
        self.house.dir.path().join("watch.toml").to_str().unwrap().to_owned()
    }

    fn configure(&self, text: &str) {
        private(Path::new(&self.config()), text);
    }

    /// One survey; its exit code, and what it said.
    fn once(&self) -> crate::house::Ran {
        self.house.umsid_within(SOON * 3, &["watch", "--once", "--config", &self.config()])
    }

    fn stop_second(&mut self) {
        self.running.truncate(1);
    }

    fn start_second(&mut self) {
        self.running.push(self.hosts[1].runs());
    }
}

fn private(path: &Path, text: &str) {
    durable::replace(path, text.as_bytes(), Access::Private).unwrap();
}

fn webhook(hook: &Hook) -> String {
    format!("[[webhook]]\nname = \"ops\"\nurl = \"{}\"\nsecret_file = \"key\"\n", hook.url())
}

/// A process that watches; ended by force if the test fails.
struct Daemon {
    child: std::process::Child,
    log: std::path::PathBuf,
}

impl Daemon {
    fn start(state: &Path, config: &str, environment: &[(&str, &str)]) -> Self {
        let log = Path::new(config).with_file_name("watch.log");
        #[expect(clippy::disallowed_methods, reason = "the program under test")]
        let child = std::process::Command::new(env!("CARGO_BIN_EXE_umsid"))
            .env("UMSID_STATE_DIR", state)
            .envs(environment.iter().copied())
            .args(["watch", "--config", config])
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::null())
            .stderr(std::fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        Self { child, log }
    }

    fn tell(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    #[track_caller]
    fn says(&self, what: &str) {
        let since = Instant::now();
        while !self.said().contains(what) {
            assert!(since.elapsed() < SOON, "{what:?} is not in:\n{}", self.said());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[track_caller]
    fn ends(mut self, code: i32) -> String {
        let status = wait_for_blocking("the end", SOON, || self.child.try_wait().unwrap());
        assert_eq!(status.code(), Some(code), "{}", self.said());
        self.said()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // One that ended already needs no end.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_change_of_state_is_told_once_and_signed_and_a_restart_tells_nothing_again() {
    let mut watched = Watched::new();
    let hook = Hook::new(&[]);
    watched.configure(&webhook(&hook));
    watched.once().exits(0);
    watched.stop_second();
    watched.once().exits(0);
    assert_eq!(hook.requests().len(), 0, "once is not enough, and what is well is not told");
    let ran = watched.once().exits(0);
    let requests = hook.requests();
    assert_eq!(requests.len(), 1);
    assert!(requests[0].is_signed(KEY) && !requests[0].is_signed("another"), "{requests:?}");
    assert!(requests[0].headers["content-type"].contains("application/json"));
    let notice = requests[0].json();
    assert_eq!((&notice["event"], &notice["cluster"]), (&"state-changed".into(), &"hamburg".into()));
    assert_eq!((&notice["before"], &notice["state"]), (&"ok".into(), &"critical".into()));
    assert_eq!(notice["text"], "UMSID CRITICAL - hamburg: ums2 did not answer");
    assert_eq!(notice["findings"][0]["kind"], "no-answer");
    assert_eq!(requests[0].headers["x-umsid-delivery"], notice["id"].as_str().unwrap());
    // Neither what is in the address nor the key is for others.
    for secret in ["T0PS3CR3T", KEY] {
        assert!(!ran.out.contains(secret) && !ran.err.contains(secret), "{ran:?}");
    }
    watched.once().exits(0);
    assert_eq!(hook.requests().len(), 1, "it was told");
    watched.start_second();
    watched.once().exits(0);
    let notices = hook.notices();
    assert_eq!((notices.len(), &notices[1]["state"]), (2, &"ok".into()));
    assert_eq!(notices[1]["over"][0], "ums2 did not answer");
    watched.once().exits(0);
    assert_eq!(hook.requests().len(), 2);
}

#[test]
fn who_answers_500_and_then_200_has_one_notice() {
    let mut watched = Watched::new();
    let hook = Hook::new(&[500]);
    watched.configure(&format!("confirm = 1\n{}", webhook(&hook)));
    watched.stop_second();
    watched.once().exits(0);
    let requests = hook.requests();
    let answered: Vec<u16> = requests.iter().map(|request| request.status).collect();
    assert_eq!(answered, [500, 204]);
    assert_eq!(requests[0].headers["x-umsid-delivery"], requests[1].headers["x-umsid-delivery"]);
    assert!(requests.iter().all(|request| request.is_signed(KEY)));
    watched.once().exits(0);
    assert_eq!(hook.requests().len(), 2);
}

#[test]
fn what_could_not_be_delivered_is_delivered_when_there_is_somebody_again() {
    let mut watched = Watched::new();
    // Free now, and nobody else is likely to get it meanwhile.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = format!("http://127.0.0.1:{port}/hook/T0PS3CR3T");
    watched.configure(&format!("confirm = 1\n[[webhook]]\nname = \"ops\"\nurl = \"{url}\"\nattempts = 2\n"));
    watched.stop_second();
    let ran = watched.once().exits(1).says("1 notice could not be delivered").says("not delivered: ");
    assert!(!ran.err.contains("T0PS3CR3T"), "{ran:?}");
    let hook = Hook::at(port);
    watched.once().exits(0);
    assert_eq!(hook.notices().len(), 1);
    assert!(!hook.requests()[0].is_signed(KEY), "there was no key to sign it with");
    assert_eq!(hook.requests()[0].path, "/hook/T0PS3CR3T");
}

#[test]
fn a_receiver_is_to_be_who_it_says_by_a_certificate_that_is_trusted() {
    let watched = Watched::new();
    let certificate = Certificate::new();
    let ca = certificate.file(watched.house.dir.path());
    let hook = Hook::secure(certificate);
    let test = ["watch", "--test-notice", "--config", &watched.config()];
    private(&watched.house.state().join("address"), &hook.url());
    let config = "[[webhook]]\nname = \"ops\"\nurl_file = \"address\"\nsecret_file = \"key\"\n";
    watched.configure(config);
    let ran = watched.house.umsid(&test).exits(1);
    assert!(ran.out.contains("ops: not delivered: ") && ran.out.contains("UnknownIssuer"), "{ran:?}");
    assert_eq!(hook.requests().len(), 0);
    watched.configure(&format!("{config}ca_file = {:?}\n", ca.to_str().unwrap()));
    let ran = watched.house.umsid(&test).exits(0);
    assert_eq!(ran.out, "ops: delivered\n");
    assert_eq!(hook.notices()[0]["event"], "test");
    assert!(hook.requests()[0].is_signed(KEY));
}

#[test]
fn mail_goes_by_tls_or_not_at_all() {
    let mut watched = Watched::new();
    private(&watched.house.state().join("password"), "mail's password");
    let config = |server: &MailServer, security: &str, ca: &str| {
        format!(
            "confirm = 1\n[[mail]]\nserver = \"127.0.0.1\"\nport = {}\nsecurity = \"{security}\"\nuser = \"umsid\"\n\
             password_file = \"password\"\nfrom = \"umsid <umsid@example.com>\"\nto = [\"ops@example.com\"]\n\
             attempts = 1\n{ca}",
            server.port
        )
    };
    let test = ["watch", "--test-notice", "--config", &watched.config()];

    // One that does not offer it hears neither name nor password.
    let plain = MailServer::new(Speech::Plain);
    watched.configure(&config(&plain, "starttls", ""));
    watched.house.umsid(&test).exits(1);
    let said = plain.said();
    assert!(said.contains("EHLO") && !said.contains("AUTH") && !said.contains("MAIL"), "{said}");

    // One whose certificate nobody knows hears nothing either.
    let certificate = Certificate::new();
    let file = certificate.file(watched.house.dir.path());
    let ca = format!("ca_file = {:?}\n", file.to_str().unwrap());
    let starttls = MailServer::new(Speech::Starttls(certificate));
    watched.configure(&config(&starttls, "starttls", ""));
    watched.house.umsid(&test).exits(1);
    assert!(!starttls.said().contains("AUTH"), "{}", starttls.said());
    assert_eq!(starttls.mails().len(), 0);

    watched.configure(&config(&starttls, "starttls", &ca));
    watched.stop_second();
    let ran = watched.once().exits(0);
    let mails = starttls.mails();
    assert_eq!(mails.len(), 1);
    for line in [
        "Subject: UMSID CRITICAL - hamburg: ums2 did not answer",
        "From: umsid <umsid@example.com>",
        "To: ops@example.com",
        "Auto-Submitted: auto-generated",
        "what to do: check that the host is up",
    ] {
        assert!(mails[0].contains(line), "{line:?} is not in\n{}", mails[0]);
    }
    let spoken = data_encoding::BASE64.encode(b"\0umsid\0mail's password");
    assert!(starttls.said().contains(&format!("AUTH PLAIN {spoken}")), "{}", starttls.said());
    assert!(!ran.err.contains("mail's password"), "{ran:?}");

    let certificate = Certificate::new();
    certificate.file(watched.house.dir.path());
    let tls = MailServer::new(Speech::Tls(certificate));
    watched.configure(&config(&tls, "tls", &ca));
    watched.house.umsid(&test).exits(0);
    assert_eq!(tls.mails().len(), 1);
}

#[test]
fn secrets_that_others_can_read_are_none() {
    use std::os::unix::fs::PermissionsExt as _;
    let watched = Watched::new();
    watched.configure(&webhook(&Hook::new(&[])));
    let key = watched.house.state().join("key");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    watched.once().exits(1).says("can be read by everybody");
    std::fs::remove_file(&key).unwrap();
    watched.once().exits(1).says("cannot read").says("key");
}

#[test]
fn as_a_service_it_tells_reads_again_and_ends() {
    let mut watched = Watched::new();
    let (hook, other) = (Hook::new(&[]), Hook::new(&[]));
    let pace = "every = \"1s\"\njitter = \"0s\"\ntimeout = \"5s\"\n";
    watched.configure(&format!("{pace}{}", webhook(&hook)));
    let notify = watched.house.dir.path().join("notify");
    let told = service_manager(&notify);
    let environment = [("NOTIFY_SOCKET", notify.to_str().unwrap()), ("WATCHDOG_USEC", "400000")];
    let daemon = Daemon::start(&watched.house.state(), &watched.config(), &environment);
    assert_eq!([next(&told), next(&told), next(&told)], ["READY=1", "WATCHDOG=1", "WATCHDOG=1"]);
    watched.once().exits(4).says("another umsid watches");

    watched.stop_second();
    hook.until("the change", |notice| notice["state"] == "critical");
    watched.configure("every = \"never\"");
    daemon.tell(Signal::HUP);
    daemon.says("going on as before: ");
    watched.configure(&format!("{pace}{}", webhook(&other)));
    daemon.tell(Signal::HUP);
    daemon.says("again\n");
    watched.start_second();
    let notice = other.until(&format!("the recovery\n{}", daemon.said()), |notice| notice["state"] == "ok");
    assert_eq!(notice["before"], "critical");
    assert_eq!(hook.notices().len(), 1);

    daemon.tell(Signal::TERM);
    let last = std::iter::repeat_with(|| next(&told)).find(|told| told != "WATCHDOG=1");
    assert_eq!(last.as_deref(), Some("STOPPING=1"));
    let said = daemon.ends(0);
    assert!(!said.contains("T0PS3CR3T") && !said.contains(KEY), "{said}");
}

/// What is told at this socket, read at once as systemd does.
fn service_manager(path: &Path) -> std::sync::mpsc::Receiver<String> {
    let socket = std::os::unix::net::UnixDatagram::bind(path).unwrap();
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut datagram = [0; 256];
        while let Ok(length) = socket.recv(&mut datagram) {
            let text = String::from_utf8_lossy(&datagram[..length]).trim().to_owned();
            if tell.send(text).is_err() {
                break;
            }
        }
    });
    told
}

fn next(told: &std::sync::mpsc::Receiver<String>) -> String {
    told.recv_timeout(SOON).expect("it tells something")
}

/// A recipient that nobody here has.
const ANOTHER: &str = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p";

#[test]
fn a_cluster_that_never_answers_holds_up_no_other() {
    let mut watched = Watched::new();
    // Takes the connection, and never says a word.
    let mute = TcpListener::bind("127.0.0.1:0").unwrap();
    let text = watched.house.inventory();
    let at = text.find("[clusters.hamburg.servers.ums1]").unwrap();
    let entry = text[at..].split("\n[").next().unwrap();
    let berlin: Vec<String> = entry
        .replace("hamburg", "berlin")
        .replace(&watched.hosts[0].address(), &mute.local_addr().unwrap().to_string())
        .lines()
        .map(|line| match line.starts_with("recipient") {
            true => format!("recipient = \"{ANOTHER}\""),
            false => line.to_owned(),
        })
        .collect();
    let berlin = berlin.join("\n");
    private(&watched.house.state().join("inventory.toml"), &format!("{text}\n{berlin}\n"));
    let hook = Hook::new(&[]);
    let patience = Duration::from_secs(60);
    watched.configure(&format!(
        "every = \"1s\"\njitter = \"0s\"\ntimeout = \"{}s\"\n{}",
        patience.as_secs(),
        webhook(&hook)
    ));
    let since = Instant::now();
    let daemon = Daemon::start(&watched.house.state(), &watched.config(), &[]);
    daemon.says("watching as coordinator test");
    watched.stop_second();
    hook.until("the change", |notice| notice["cluster"] == "hamburg" && notice["state"] == "critical");
    watched.start_second();
    hook.until("the recovery", |notice| notice["cluster"] == "hamburg" && notice["state"] == "ok");
    assert!(since.elapsed() < patience, "{:?}", since.elapsed());
    // Nor does it hold up the end.
    daemon.tell(Signal::TERM);
    daemon.ends(0);
    assert!(since.elapsed() < patience, "{:?}", since.elapsed());
}

#[test]
fn what_was_seen_is_there_for_who_scrapes_this_host() {
    use std::io::{Read as _, Write as _};
    let watched = Watched::new();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    watched.configure(&format!("[metrics]\nlisten = \"127.0.0.1:{port}\"\n"));
    let _daemon = Daemon::start(&watched.house.state(), &watched.config(), &[]);
    let text = wait_for_blocking("the first survey", SOON, || {
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).ok()?;
        write!(stream, "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        text.contains("umsid_cluster_state{").then_some(text)
    });
    assert!(text.starts_with("HTTP/1.1 200 "), "{text}");
    assert!(text.to_lowercase().contains("content-type: application/openmetrics-text"), "{text}");
    assert!(text.contains("umsid_cluster_state{cluster=\"hamburg\"} 0.0"), "{text}");
    assert!(text.contains("# EOF\n"), "{text}");
}

#[test]
fn an_observer_watches_and_is_refused_where_it_should_synchronize() {
    let watched = Watched::new();
    let out = watched.house.dir.path().join("observer");
    let dir = out.to_str().unwrap();
    watched.house.umsid(&["observer", "add", "monitor", "--out", dir]).exits(0);
    let hook = Hook::new(&[]);
    private(&out.join("key"), KEY);
    let watch = ["--state-dir", dir, "watch", "--once", "--config", &watched.config()];
    watched.configure(&format!("confirm = 1\n{}", webhook(&hook)));
    watched.house.umsid(&watch).exits(0);
    watched.configure("[sync.hamburg]\nwindow = \"daily 00:00-24:00\"\n");
    let ran =
        watched.house.umsid(&watch).exits(7).says("observer monitor, which may look and change nothing");
    assert!(ran.err.contains("what to do: take `sync` out"), "{ran:?}");
    watched.configure("[sync.hamberg]\nwindow = \"daily 00:00-24:00\"\n");
    watched.house.umsid(&watch).exits(2).says("did you mean `hamburg`?");
    watched.configure("[sync.hamburg]\nwindow = \"Son 02:00-04:00\"\n");
    watched.house.umsid(&watch).exits(1).says("`Son` is no day").says("line 2");
}

#[test]
fn what_it_remembers_is_not_made_up_where_it_is_damaged() {
    let watched = Watched::new();
    watched.configure("");
    private(&watched.house.state().join("watch.json"), "{");
    watched.once().exits(1).says("is damaged").says("told again then");
}

/// A window that is open today and for some days, or closed for as long.
fn window(open: bool) -> &'static str {
    if open { "daily 00:00-24:00" } else { closed() }
}

fn closed() -> &'static str {
    // Three days from now, whatever the clock does meanwhile.
    let days = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
    let today = jiff::Zoned::now().weekday().to_monday_zero_offset();
    let index = usize::try_from((today + 3) % 7).unwrap();
    Box::leak(format!("{} 02:00-04:00", days[index]).into_boxed_str())
}

fn rule(open: bool) -> String {
    format!(
        "[sync.{CLUSTER}]\nwindow = \"{}\"\ntakes = \"10min\"\nafter = 2\nsettle = \"0s\"\n",
        window(open)
    )
}

#[test]
fn it_synchronizes_in_the_window_and_only_there() {
    let place = Place::broken(&["ums2"]);
    let hook = Hook::new(&[]);
    let config = place.dir.path().join("watch.toml");
    let once = ["watch", "--once", "--config", config.to_str().unwrap()];
    let told = format!("[[webhook]]\nname = \"ops\"\nurl = \"{}\"\n", hook.url());
    private(&config, &format!("{told}{}", rule(false)));
    for _ in 0..3 {
        place.umsid(&once).exits(0);
    }
    assert_eq!(place.calls("ums2", "licensing restore"), 0, "the window is closed");
    assert_eq!(place.states()["ums2"], "not-in-sync");
    hook.until("the change", |notice| notice["state"] == "critical");

    // One that does not answer, and nothing is begun.
    private(&config, &format!("{told}{}", rule(true)));
    place.kill_agent("ums3");
    place.umsid(&once).exits(0);
    assert_eq!(place.calls("ums2", "licensing restore"), 0, "ums3 is silent");
    place.start_agent("ums3");

    place.umsid(&once).exits(0);
    place.is_well();
    let notice = hook.until("the synchronization", |notice| notice["event"] == "synchronized");
    assert_eq!(notice["cluster"], CLUSTER);
    let runs = place.umsid(&["runs", "-o", "json"]).exits(0).json();
    assert_eq!(runs["runs"].as_array().unwrap().len(), 1, "{runs}");
    place.umsid(&once).exits(0);
    hook.until("the recovery", |notice| notice["event"] == "state-changed" && notice["state"] == "ok");
}

#[test]
fn a_synchronization_that_fails_is_told_and_not_begun_again() {
    let place = Place::broken(&["ums2"]);
    place.lab.set("ums2", "fails", "restore").unwrap();
    let hook = Hook::new(&[]);
    let config = place.dir.path().join("watch.toml");
    let once = ["watch", "--once", "--config", config.to_str().unwrap()];
    private(&config, &format!("[[webhook]]\nname = \"ops\"\nurl = \"{}\"\n{}", hook.url(), rule(true)));
    for _ in 0..4 {
        place.umsid(&once).exits(0);
    }
    let failed: Vec<_> =
        hook.notices().into_iter().filter(|notice| notice["event"] == "sync-failed").collect();
    assert_eq!(failed.len(), 1, "{failed:#?}");
    let runs = place.umsid(&["runs", "-o", "json"]).exits(0).json();
    assert_eq!(runs["runs"].as_array().unwrap().len(), 1, "{runs}");
}

#[test]
fn what_the_window_of_a_site_refuses_is_no_attempt() {
    let place = Place::broken(&["ums2"]);
    let hook = Hook::new(&[]);
    let config = place.dir.path().join("watch.toml");
    let once = ["watch", "--once", "--config", config.to_str().unwrap()];
    private(&config, &format!("[[webhook]]\nname = \"ops\"\nurl = \"{}\"\n{}", hook.url(), rule(true)));
    let inventory = place.state().join("inventory.toml");
    let text = std::fs::read_to_string(&inventory).unwrap();
    private(&inventory, &format!("{text}\n[clusters.{CLUSTER}.sites.site2]\nwindow = \"{}\"\n", closed()));
    for _ in 0..2 {
        place.umsid(&once).exits(0);
    }
    place.umsid(&once).exits(0).says("not synchronized: ums2: step").says("has room for that from");
    let runs = place.umsid(&["runs", "-o", "json"]).exits(0).json();
    assert_eq!(runs["runs"].as_array().unwrap().len(), 0, "{runs}");

    private(&inventory, &text);
    place.umsid(&once).exits(0);
    place.is_well();
    hook.until("the synchronization", |notice| notice["event"] == "synchronized");
    let failed = hook.notices().into_iter().filter(|notice| notice["event"] == "sync-failed");
    assert_eq!(failed.count(), 0, "nobody need look");
}

#[test]
fn told_to_end_it_halts_a_synchronization_as_ctrl_c_does() {
    let place = Place::broken(&["ums2", "ums3"]);
    place.lab.set("ums3", "restore_delay_ms", "1000").unwrap();
    let config = place.dir.path().join("watch.toml");
    private(&config, &format!("every = \"1s\"\njitter = \"0s\"\n{}", rule(true)));
    let mut umsid = place.watch(&["watch", "--config", config.to_str().unwrap()]);
    umsid.until("the restore on ums3", |event| {
        event["what"] == "restoring the UMS ID" && event["server"] == "ums3"
    });
    let pid = Pid::from_raw(i32::try_from(umsid.pid()).unwrap()).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    let halted = umsid.until("the halt", |event| event["event"] == "halted");
    assert_eq!(halted["kind"], "interrupted");
    assert_eq!(umsid.ended().code(), Some(0), "{}", umsid.said());
    place.umsid(&["resume"]).exits(0).shows("synchronized");
    place.is_well();
    assert_eq!(place.calls("ums3", "licensing restore"), 1);
}
