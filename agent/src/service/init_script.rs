//! The init script of a UMS before 6.06.100, and of systems without systemd (UMS_FACTS §4).

use std::path::Path;

use super::ProcessSeeker;
use super::command::{Command, Commands};
use crate::config::{CommandLine, Config};
use crate::exec::Rules;

/// Where it usually is.
pub const USUAL: &str = "/etc/init.d/igelRMserver";

/// The UMS Server, by this script.
pub fn control(script: &Path, config: &Config, rules: Rules, seeker: ProcessSeeker) -> Command {
    let command = CommandLine::program(script).behind(&config.service.prefix);
    let commands = Commands {
        start: command.with(["start"]),
        stop: command.with(["stop"]),
        restart: Some(command.with(["restart"])),
        status: Some(command.with(["status"])),
    };
    Command::new(
        format!("init script {}", script.display()),
        commands,
        rules,
        config.timeouts.service,
        seeker,
    )
}
