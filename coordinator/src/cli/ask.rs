//! What only a person knows: passphrases, pairing codes, a yes.

use std::io::{self, BufRead, IsTerminal as _, Read as _, Write};
use std::path::{Path, PathBuf};

use age::secrecy::SecretString;
use anyhow::Context as _;
use clap::Args;
use zeroize::Zeroizing;

use crate::authority::{Authority, AuthorityError};
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
        if !authority.needs_passphrase() {
            return Err(AuthorityError::Away.into());
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
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return Err(Refusal::new(Exit::Usage, format!("{question} There is no terminal to ask on"))
            .remedy("say --yes if you mean it")
            .into());
    }
    // A whole line, as the terminal gives it: one key too many does not restart servers, and Ctrl-C ends us as always.
    answered(question, &mut io::stdin().lock(), &mut io::stderr().lock())
        .context("cannot ask on the terminal")
}

/// How often an answer that is neither yes nor no is asked again.
const TRIES: usize = 3;

/// Only `y` and `yes` are a yes; the end of input is a no.
fn answered(question: &str, answers: &mut impl BufRead, out: &mut impl Write) -> io::Result<bool> {
    for _ in 0..TRIES {
        write!(out, "{question} [y/N] ")?;
        out.flush()?;
        let mut line = String::new();
        if answers.take(LONGEST).read_line(&mut line)? == 0 {
            writeln!(out)?;
            return Ok(false);
        }
        match line.trim().to_lowercase().as_str() {
            "y" | "yes" => return Ok(true),
            "" | "n" | "no" => return Ok(false),
            _ => writeln!(out, "please answer yes or no")?,
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(typed: &str) -> (bool, String) {
        let mut out = Vec::new();
        let yes = answered("Sure?", &mut typed.as_bytes(), &mut out).unwrap();
        (yes, String::from_utf8(out).unwrap())
    }

    #[test]
    fn only_a_line_that_says_yes_is_a_yes() {
        for (typed, yes) in [
            ("y\n", true),
            (" YES \n", true),
            ("\n", false),
            ("n\ny\n", false),
            ("", false),
            ("maybe\n", false),
            ("maybe\nyes\n", true),
            ("sync\numsid sync\nyy\ny\n", false),
        ] {
            assert_eq!(answer(typed).0, yes, "{typed:?}");
        }
        assert_eq!(answer("maybe\nno\n").1, "Sure? [y/N] please answer yes or no\nSure? [y/N] ");
    }
}
