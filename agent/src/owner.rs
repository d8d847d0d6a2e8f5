//! Whose the agent's state is. Where the agent has no rights it is a user of its own: what root does there by hand has to be
//! done as that user, or the agent could not read it.

use std::path::Path;

/// The agent's own user, as root sees it: whom the state belongs to. `None` where that is root too, nothing is there yet, or
/// somebody else than root asks.
#[cfg(unix)]
pub fn own_user(state_dir: &Path) -> Option<u32> {
    use std::os::unix::fs::MetadataExt as _;
    let found = std::fs::symlink_metadata(state_dir).ok().filter(std::fs::Metadata::is_dir)?;
    (rustix::process::geteuid().is_root() && found.uid() != 0).then(|| found.uid())
}

/// An agent has no user of its own.
#[cfg(not(unix))]
pub fn own_user(_: &Path) -> Option<u32> {
    None
}

/// Begins this program anew as the user whom the state belongs to, if root runs it. The join file, which may be root's alone,
/// is opened before and becomes its standard input.
///
/// # Errors
/// If the join file cannot be opened, or the program not be begun anew.
#[cfg(unix)]
#[expect(clippy::disallowed_methods, reason = "nothing is spawned: this process becomes another user's")]
pub fn become_owner(state_dir: &Path, join: Option<&Path>) -> anyhow::Result<()> {
    use std::os::unix::fs::MetadataExt as _;
    use std::os::unix::process::CommandExt as _;

    use anyhow::Context as _;

    let Some(user) = own_user(state_dir) else { return Ok(()) };
    let group = std::fs::symlink_metadata(state_dir).context("whose the state is cannot be told")?.gid();
    let program = std::env::current_exe().context("which program this is cannot be told")?;
    let mut command = std::process::Command::new(program);
    command.uid(user).gid(group);
    match join.filter(|path| *path != Path::new("-")) {
        None => {
            command.args(std::env::args_os().skip(1));
        }
        Some(path) => {
            let file =
                std::fs::File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
            command.args(from_standard_input(std::env::args_os().skip(1))).stdin(file);
        }
    }
    Err(command.exec())
        .with_context(|| format!("cannot go on as user {user}, whose {} is", state_dir.display()))
}

/// There is one user for everything.
///
/// # Errors
/// None.
#[cfg(not(unix))]
pub fn become_owner(_: &Path, _: Option<&Path>) -> anyhow::Result<()> {
    Ok(())
}

/// The same command line, with the join file from standard input.
#[cfg(unix)]
fn from_standard_input(
    arguments: impl Iterator<Item = std::ffi::OsString>,
) -> impl Iterator<Item = std::ffi::OsString> {
    let mut follows = false;
    arguments.map(move |argument| {
        let text = argument.to_string_lossy();
        let name = std::mem::replace(&mut follows, text == "--join");
        if name {
            "-".into()
        } else if text.starts_with("--join=") {
            "--join=-".into()
        } else {
            argument
        }
    })
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn a_join_file_is_read_from_standard_input_instead_however_it_was_given() {
        let given = |line: &str| {
            let words = line.split(' ').map(Into::into).collect::<Vec<_>>().into_iter();
            from_standard_input(words).map(|word| word.into_string().unwrap()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(given("enroll --join /root/x --again"), "enroll --join - --again");
        assert_eq!(given("--config a enroll --join=/root/x"), "--config a enroll --join=-");
        assert_eq!(given("enroll --listen --join"), "enroll --listen --join");
    }
}
