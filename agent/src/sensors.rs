//! What the machine tells of itself: energy (RAPL), heat and throttling, from files below `/sys`, where it has them and lets
//! this user read them.

use std::fs;
use std::path::{Path, PathBuf};

use secateur_common::{ByteCount, Sensed};

/// Counters before some inferences are timed.
pub struct Sensors {
    root: PathBuf,
    energy: Vec<Package>,
    throttled: Option<u64>,
}

/// A processor package's energy counter.
struct Package {
    folder: PathBuf,
    /// Microjoules; it begins again at zero after `last`.
    before: u64,
    last: u64,
}

impl Sensors {
    /// Reads the counters of this machine.
    pub fn start() -> Self {
        Self::below(Path::new("/sys"))
    }

    /// The same below another folder than `/sys`.
    fn below(root: &Path) -> Self {
        // A package is `intel-rapl:N`, on AMD as well; what has a second colon is a part of one.
        let packages = folders(&root.join("class/powercap"), "intel-rapl:");
        let whole = packages.into_iter().filter(|folder| name(folder).matches(':').count() == 1);
        let energy = whole.filter_map(|folder| {
            let (before, last) =
                (number(&folder.join("energy_uj"))?, number(&folder.join("max_energy_range_uj"))?);
            Some(Package { folder, before, last })
        });
        Self { energy: energy.collect(), throttled: throttled(root), root: root.to_owned() }
    }

    /// What was sensed since the start, in which `inferences` were run.
    pub fn sensed(&self, inferences: u64) -> Sensed {
        let taken = |package: &Package| {
            let now: u64 = number(&package.folder.join("energy_uj"))?;
            Some(now.checked_sub(package.before).unwrap_or(now + package.last.saturating_sub(package.before)))
        };
        let taken: Option<u64> = self.energy.iter().map(taken).sum();
        let known = |_: &u64| !self.energy.is_empty() && inferences > 0;
        let zones = folders(&self.root.join("class/thermal"), "thermal_zone");
        Sensed {
            energy_per_inference_nj: taken.filter(known).map(|taken| taken.saturating_mul(1000) / inferences),
            temperature_millidegrees: zones.iter().filter_map(|zone| number(&zone.join("temp"))).max(),
            throttled: throttled(&self.root)
                .zip(self.throttled)
                .map(|(now, before)| now.saturating_sub(before)),
            energy_declared: false,
        }
    }
}

/// Times that any core was throttled since the machine started.
fn throttled(root: &Path) -> Option<u64> {
    let cores = folders(&root.join("devices/system/cpu"), "cpu");
    let count = |core: &PathBuf| number::<u64>(&core.join("thermal_throttle/core_throttle_count"));
    cores.iter().filter_map(count).reduce(u64::saturating_add)
}

/// The folders in `parent` whose names begin so.
fn folders(parent: &Path, prefix: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| name(path).starts_with(prefix)).collect()
}

fn name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

fn number<N: std::str::FromStr>(file: &Path) -> Option<N> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

/// `VmHWM` of this process; zero where the system does not tell.
pub fn process_peak() -> ByteCount {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().next()).and_then(|kib| kib.parse::<u64>().ok());
    ByteCount(kib.unwrap_or(0) * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, file: &str, value: i64) {
        let path = root.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, format!("{value}\n")).unwrap();
    }

    #[test]
    fn counters_are_compared_and_may_begin_again() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        for (package, before) in [("intel-rapl:0", 900), ("intel-rapl:1", 50), ("intel-rapl:0:0", 7)] {
            write(root, &format!("class/powercap/{package}/energy_uj"), before);
            write(root, &format!("class/powercap/{package}/max_energy_range_uj"), 1000);
        }
        write(root, "devices/system/cpu/cpu0/thermal_throttle/core_throttle_count", 4);
        write(root, "devices/system/cpu/cpu1/thermal_throttle/core_throttle_count", 1);
        let sensors = Sensors::below(root);
        write(root, "class/powercap/intel-rapl:0/energy_uj", 100); // 100 to its end, 100 after
        write(root, "class/powercap/intel-rapl:1/energy_uj", 90);
        write(root, "class/thermal/thermal_zone0/temp", 41_000);
        write(root, "class/thermal/thermal_zone1/temp", 63_500);
        write(root, "devices/system/cpu/cpu1/thermal_throttle/core_throttle_count", 3);
        let expected = Sensed {
            energy_per_inference_nj: Some(240 * 1000 / 12),
            temperature_millidegrees: Some(63_500),
            throttled: Some(2),
            energy_declared: false,
        };
        assert_eq!(sensors.sensed(12), expected);
        assert_eq!(sensors.sensed(0).energy_per_inference_nj, None);
    }

    #[test]
    fn what_a_machine_does_not_tell_is_none() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Sensors::below(folder.path()).sensed(10), Sensed::default());
    }
}
