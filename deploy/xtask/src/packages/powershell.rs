//! What can be said of a PowerShell script where there is no PowerShell: that it is one, by a grammar of the language.

use std::path::Path;

use anyhow::{Context as _, ensure};

use crate::files;
use crate::program::{Program, root, target_dir};

/// Prints every place at which what follows is not PowerShell, or something is missing.
const JUDGE: &str = "
import sys, tree_sitter, tree_sitter_powershell
text = open(sys.argv[1], 'rb').read()
tree = tree_sitter.Parser(tree_sitter.Language(tree_sitter_powershell.language())).parse(text)
def look(node):
    if node.is_error or node.is_missing:
        print('line %d, column %d' % (node.start_point[0] + 1, node.start_point[1] + 1))
    for child in node.children:
        look(child)
look(tree.root_node)
";

/// Checks the script that enrols an agent.
///
/// # Errors
/// Where it is no PowerShell, or where a script that is none passes for one.
pub(super) fn check(dir: &Path) -> anyhow::Result<()> {
    let script = root().join("deploy/windows/enrol.ps1");
    let faults = faults(&script)?;
    ensure!(faults.is_empty(), "{} is no PowerShell at {faults}", script.display());
    // A judge that finds nothing anywhere would be none.
    let text = std::fs::read_to_string(&script)?;
    let broken = dir.join("broken.ps1");
    let part = text.rsplit_once('}').context("the script has no block")?.0;
    files::write(&broken, 0o644, part.as_bytes())?;
    ensure!(!self::faults(&broken)?.is_empty(), "a script with an open block passes for PowerShell");
    Ok(())
}

fn faults(script: &Path) -> anyhow::Result<String> {
    let place = target_dir().join("powershell");
    let python = place.join("bin/python");
    if !place.join("done").exists() {
        Program::new(Path::new("python3")).args(["-m", "venv"]).args([&place]).read_quietly()?;
        Program::new(&python)
            .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"])
            .args(["tree-sitter==0.26.1", "tree-sitter-powershell==0.26.4"])
            .read_quietly()?;
        files::write(&place.join("done"), 0o644, b"")?;
    }
    let found = Program::new(&python).args(["-c", JUDGE]).args([script]).read_quietly()?;
    Ok(found.trim().replace('\n', "; "))
}
