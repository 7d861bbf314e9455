//! The demo's processes: this program, re-executed as coordinator and as agents. None outlives the demo.

use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::failure::{Failure, OrFail, Outcome};

/// A running program. Killed when it is dropped; should the demo itself be killed, its end of the pipe on the
/// program's stdin closes and the program ends (`--exit-with-stdin`).
#[derive(Debug)]
pub(super) struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Runs this program with `arguments`; what it says goes to the file `log`, after what is there already.
    pub(super) fn start(name: &str, arguments: &[&OsStr], log: &Path) -> Outcome<Self> {
        let advice = "the system refuses processes or files: raise its limits or free some space";
        let doing = format!("cannot start {name}");
        let program = std::env::current_exe().or_work(&doing, advice)?;
        let file = File::options().create(true).append(true).open(log).or_work(&doing, advice)?;
        let child = Command::new(program)
            .arg("--exit-with-stdin")
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(file.try_clone().or_work(&doing, advice)?)
            .stderr(file)
            .spawn()
            .or_work(&doing, advice)?;
        Ok(Self { name: name.to_owned(), child, log: log.to_owned() })
    }

    /// SIGKILL: the program gets no chance to tidy up. Returns when it is gone.
    pub(super) fn kill(mut self) -> Outcome {
        let advice = "see what holds the process";
        self.child.kill().or_work(format!("cannot kill {}", self.name), advice)?;
        self.child.wait().map(drop).or_work(format!("cannot wait for {}", self.name), advice)
    }

    /// # Errors
    /// Where the program has ended, with the last line it said.
    pub(super) fn check_alive(&mut self) -> Outcome {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => {
                let said = std::fs::read_to_string(&self.log).unwrap_or_default();
                let last = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("nothing");
                let what = format!("{} ended by itself ({status}); it said: {last}", self.name);
                Err(Failure::work(what, format!("see {}", self.log.display())))
            }
            Err(error) => Err(Failure::work(format!("cannot watch {}: {error}", self.name), "try again")),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Ends this process when stdin ends, which it does when the parent is gone.
pub(crate) fn exit_with_stdin() {
    std::thread::spawn(|| {
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        std::process::exit(0);
    });
}
