//! `umsid-fleet-ums VERB DIR [FILE PASSWORD-FILE]`: the smallest UMS that can be called from outside, for measurements that
//! compare umsid with something else: both call this one. The UMS ID is the first line of `DIR/id`, the process a number in
//! `DIR/process`; `DIR/delays` holds the milliseconds a call and a restart take.
#![expect(
    clippy::disallowed_methods,
    reason = "what it writes stands for what a UMS writes, which is not durable either"
)]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "it is a program that prints")]

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;
use std::{env, fs, io, thread};

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[&str]) -> io::Result<()> {
    match arguments {
        ["list", dir] => {
            wait(dir, 0)?;
            let (local, main) = (id(&Path::new(dir).join("id"))?, id(&Path::new(dir).join("main"))?);
            println!("Local UMS ID: {local}\nMain UMS ID: {main}");
        }
        ["backup", dir, file, password] => {
            wait(dir, 0)?;
            let mut content = fs::read(Path::new(dir).join("id"))?;
            content.splice(0..0, format!("{}\n", id(Path::new(password))?).into_bytes());
            fs::write(file, content)?;
        }
        ["restore", dir, file, password] => {
            wait(dir, 0)?;
            let content = fs::read(file)?;
            let end = content.iter().position(|byte| *byte == b'\n').unwrap_or(content.len());
            if content.get(..end) != Some(id(Path::new(password))?.as_bytes()) {
                return Err(io::Error::other("the password does not open this backup"));
            }
            fs::write(Path::new(dir).join("id"), content.get(end + 1..).unwrap_or_default())?;
        }
        ["restart", dir] => {
            wait(dir, 1)?;
            let path = Path::new(dir).join("process");
            let process: u32 = id(&path)?.parse().map_err(io::Error::other)?;
            fs::write(path, (process + 1).to_string())?;
        }
        _ => {
            return Err(io::Error::other(
                "list DIR | backup DIR FILE PASSWORD | restore DIR FILE PASSWORD | restart DIR",
            ));
        }
    }
    Ok(())
}

/// The first line of a file.
fn id(path: &Path) -> io::Result<String> {
    use io::BufRead as _;
    let mut line = String::new();
    io::BufReader::new(fs::File::open(path)?).read_line(&mut line)?;
    Ok(line.trim_end().to_owned())
}

fn wait(dir: &str, which: usize) -> io::Result<()> {
    let delays = fs::read_to_string(Path::new(dir).join("delays"))?;
    let ms = delays.split_whitespace().nth(which).and_then(|ms| ms.parse().ok()).unwrap_or(0);
    if ms > 0 {
        thread::sleep(Duration::from_millis(ms));
    }
    Ok(())
}
