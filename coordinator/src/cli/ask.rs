//! What only a person knows: passphrases, pairing codes, a yes.

use std::io::{self, IsTerminal as _, Read as _};
use std::path::{Path, PathBuf};

use age::secrecy::SecretString;
use anyhow::Context as _;
use clap::Args;
use dialoguer::console::{Key, Term};
use zeroize::Zeroizing;

use crate::authority::Authority;
use crate::exit::{Exit, Refusal};

/// Longest secret that is read, in bytes.
const LONGEST: u64 = 4096;

/// Where the certificate authority's passphrase comes from, if it has one.
#[derive(Debug, Args)]
pub struct Passphrase {
    /// File whose first line is the certificate authority's passphrase, if it has one
    #[arg(long, value_name = "FILE")]
    pub passphrase_file: Option<PathBuf>,
}

impl Passphrase {
    /// Makes the authority able to sign: by the file, or by asking on a terminal.
    ///
    /// # Errors
    /// If the passphrase is wrong, or there is nobody to ask.
    pub fn unlock(&self, authority: &Authority) -> anyhow::Result<()> {
        if authority.can_sign() {
            return Ok(());
        }
        let passphrase = match &self.passphrase_file {
            Some(file) => first_line(file)?,
            None => hidden("passphrase of the certificate authority", "--passphrase-file FILE")?,
        };
        Ok(authority.unlock(&passphrase)?)
    }
}

/// The first line of a file.
pub fn first_line(path: &Path) -> anyhow::Result<SecretString> {
    let file = std::fs::File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut text = Zeroizing::new(String::new());
    file.take(LONGEST)
        .read_to_string(&mut text)
        .with_context(|| format!("cannot read {}", path.display()))?;
    let line = text.lines().next().unwrap_or_default();
    if line.is_empty() {
        return Err(
            Refusal::new(Exit::WrongPassword, format!("{} has an empty first line", path.display())).into()
        );
    }
    Ok(SecretString::from(line.to_owned()))
}

/// All of standard input, without white space around it.
pub fn stdin() -> anyhow::Result<Zeroizing<String>> {
    let mut text = Zeroizing::new(String::new());
    std::io::stdin().take(LONGEST).read_to_string(&mut text).context("cannot read standard input")?;
    Ok(Zeroizing::new(text.trim().to_owned()))
}

/// Asks on the terminal without showing what is typed; `instead` says how to give it elsewhere.
pub fn hidden(what: &str, instead: &str) -> anyhow::Result<SecretString> {
    if !std::io::stdin().is_terminal() {
        let what = format!("the {what} is needed, and there is no terminal to ask on");
        return Err(Refusal::new(Exit::WrongPassword, what).remedy(format!("give it with {instead}")).into());
    }
    let typed =
        dialoguer::Password::new().with_prompt(what).interact().context("cannot ask on the terminal")?;
    Ok(SecretString::from(typed))
}

/// Asks for a new passphrase, twice.
pub fn new_passphrase() -> anyhow::Result<SecretString> {
    if !std::io::stdin().is_terminal() {
        return Err(Refusal::new(Exit::Usage, "there is no terminal to ask for a passphrase on")
            .remedy("give it with --passphrase-file FILE")
            .into());
    }
    let typed = dialoguer::Password::new()
        .with_prompt("new passphrase for the certificate authority")
        .with_confirmation("the same again", "these are two different ones")
        .interact()
        .context("cannot ask on the terminal")?;
    Ok(SecretString::from(typed))
}

/// Asks for a yes, unless it was given.
///
/// # Errors
/// Off a terminal, without `--yes`: exit code 2.
pub fn yes(given: bool, question: &str) -> anyhow::Result<bool> {
    if given {
        return Ok(true);
    }
    let terminal = Term::stderr();
    if !io::stdin().is_terminal() || !terminal.is_term() {
        return Err(Refusal::new(Exit::Usage, format!("{question} There is no terminal to ask on"))
            .remedy("say --yes if you mean it")
            .into());
    }
    terminal.write_str(&format!("{question} [y/N] ")).context("cannot ask on the terminal")?;
    // A key at a time, and raw: Ctrl-C is a key like any other, the terminal is put back before anything is decided.
    let answer = answered(|| terminal.read_key_raw());
    let shown = if matches!(answer, Ok(true)) { "yes" } else { "no" };
    terminal.write_line(shown).context("cannot ask on the terminal")?;
    answer
}

/// The first key that is an answer; the end of input is a no.
fn answered(mut key: impl FnMut() -> io::Result<Key>) -> anyhow::Result<bool> {
    loop {
        match key() {
            Ok(Key::Char('y' | 'Y')) => return Ok(true),
            // Ctrl-D
            Ok(Key::Char('n' | 'N' | '\u{4}') | Key::Enter | Key::Escape) => return Ok(false),
            Ok(Key::CtrlC) => {
                return Err(Refusal::new(
                    Exit::Interrupted,
                    "interrupted at the question; nothing was changed",
                )
                .into());
            }
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
            Err(error) => return Err(anyhow::Error::new(error).context("cannot ask on the terminal")),
            Ok(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(keys: &[Key]) -> anyhow::Result<bool> {
        let mut keys = keys.iter().cloned();
        answered(|| keys.next().ok_or_else(|| io::ErrorKind::UnexpectedEof.into()))
    }

    #[test]
    fn only_y_is_a_yes_and_the_end_of_input_a_no() {
        for (keys, yes) in [
            (&[Key::Char('y')][..], true),
            (&[Key::Char('x'), Key::ArrowUp, Key::Char('Y')], true),
            (&[Key::Char('n'), Key::Char('y')], false),
            (&[Key::Enter, Key::Char('y')], false),
            (&[Key::Escape], false),
            (&[Key::Char('\u{4}'), Key::Char('y')], false),
            (&[Key::Char('x')], false),
        ] {
            assert_eq!(answer(keys).unwrap(), yes, "{keys:?}");
        }
    }

    #[test]
    fn ctrl_c_at_the_question_ends_as_an_interruption() {
        let error = answer(&[Key::CtrlC, Key::Char('y')]).unwrap_err();
        assert_eq!(crate::exit::of(&error), Exit::Interrupted);
        let error = answered(|| Err(io::ErrorKind::Other.into())).unwrap_err();
        assert_eq!(crate::exit::of(&error), Exit::Failed);
    }
}
