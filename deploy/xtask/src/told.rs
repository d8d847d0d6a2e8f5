//! What `umsid` tells in JSON, as far as it is of interest to the repository's own tasks.

use std::io::{BufRead as _, BufReader};
use std::process::Child;
use std::sync::mpsc::channel;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::Value;

/// Longer than anything takes on a busy machine.
const SOON: Duration = Duration::from_secs(120);

/// The state of each server, by what `umsid status -o json` told.
pub(crate) fn states(text: &str) -> anyhow::Result<Vec<String>> {
    let status: Value = serde_json::from_str(text).context("umsid status printed something else")?;
    let servers = status.pointer("/clusters/0/servers").and_then(Value::as_array);
    let servers = servers.context("umsid status names no servers")?;
    Ok(servers.iter().map(|it| it["state"].as_str().unwrap_or_default().to_owned()).collect())
}

/// The report at the end of what a run told.
pub(crate) fn report(text: &str) -> anyhow::Result<Value> {
    let last = text.lines().last().context("umsid printed nothing")?;
    serde_json::from_str(last).with_context(|| format!("umsid ended with {last}"))
}

/// Waits for a server's restore in what `umsid sync` tells; gives the run. What is told afterwards is read too, so that umsid
/// can say it.
pub(crate) fn until_restored(umsid: &mut Child, server: &str) -> anyhow::Result<String> {
    let out = umsid.stdout.take().context("umsid has no standard output of its own")?;
    let (tell, told) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(out).lines().map_while(Result::ok) {
            // Nobody waits for more once the restore was seen.
            let _ = tell.send(line);
        }
    });
    loop {
        let line = told.recv_timeout(SOON).with_context(|| format!("{server} was never restored"))?;
        let event: Value = serde_json::from_str(&line).with_context(|| format!("umsid printed {line}"))?;
        if event["server"] == server && event["what"] == "restoring the UMS ID" {
            return Ok(event["run"].as_str().unwrap_or_default().to_owned());
        }
    }
}
