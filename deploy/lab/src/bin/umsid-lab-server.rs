//! The stand-in for the UMS Server, and what starts and stops it.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use umsid_lab::programs::{self, Action};

#[derive(Parser)]
#[command(about = "The UMS Server of a lab: called by a server's init script and by umsadmin-cli")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Be the UMS Server, in the foreground
    Run(Server),
    /// Start the UMS Server in the background
    Start(Server),
    /// Stop it
    Stop(Server),
    /// Stop it and start it
    Restart(Server),
    /// Say whether it runs
    Status(Server),
    /// Be the init script of the server that the environment names
    Init {
        /// start, stop, restart or status
        arguments: Vec<String>,
    },
    /// Make this Windows the host of the server, whose UMS Server becomes a service
    #[cfg(windows)]
    Install {
        #[command(flatten)]
        server: Server,
        /// What the service is called
        #[arg(long, default_value = "IGELRMGUIServer")]
        name: String,
        /// Install another service, that does nothing but needs this one
        #[arg(long, value_name = "SERVICE")]
        needs: Option<String>,
    },
    /// What the service manager calls
    #[cfg(windows)]
    #[command(hide = true)]
    Service {
        #[command(flatten)]
        server: Server,
        /// As whom
        #[arg(long)]
        name: String,
    },
    /// Hold stdout and stderr, and do nothing
    #[command(hide = true)]
    HoldOutput,
}

#[derive(Args)]
struct Server {
    /// The directory of the server
    #[arg(long, value_name = "DIR")]
    server: PathBuf,
}

#[expect(clippy::print_stdout, clippy::print_stderr, reason = "an init script tells its caller how it went")]
fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok((exit, text)) => {
            if exit == 0 {
                println!("{text}");
            } else {
                eprintln!("{text}");
            }
            ExitCode::from(exit)
        }
        Err(error) => {
            eprintln!("umsid-lab-server: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> io::Result<(u8, String)> {
    Ok(match command {
        Command::Run(Server { server }) => (programs::run_server(server)?, String::new()),
        Command::Start(Server { server }) => programs::control(server, Action::Start),
        Command::Stop(Server { server }) => programs::control(server, Action::Stop),
        Command::Restart(Server { server }) => programs::control(server, Action::Restart),
        Command::Status(Server { server }) => programs::control(server, Action::Status),
        Command::Init { arguments } => programs::init_script(server()?, &arguments)?,
        #[cfg(windows)]
        Command::Install { server, name, needs } => {
            umsid_lab::windows::install(server.server, &umsid_lab::windows::Role { name, needs })?;
            (0, "installed".to_owned())
        }
        #[cfg(windows)]
        Command::Service { server, name } => {
            umsid_lab::windows::serve(server.server, &name)?;
            (0, String::new())
        }
        Command::HoldOutput => {
            programs::hold();
            (0, String::new())
        }
    })
}

fn server() -> io::Result<PathBuf> {
    programs::server_from_environment()
}
