#![allow(clippy::all, missing_docs, clippy::unwrap_used, clippy::print_stdout)]
use secateur_common::{Budget, ByteCount, Metric};
use secateur_model::{Graph, Tensor, cost, eval, onnx};
use secateur_prune::*;
fn data(name: &str) -> Tensor {
    let b = std::fs::read(format!("/tmp/raw/{name}.x")).unwrap();
    let v: Vec<f32> = b.chunks_exact(4).map(|c| f32::from_le_bytes(c.try_into().unwrap())).collect();
    Tensor::f32(vec![v.len() / 784, 1, 28, 28], v).unwrap()
}
fn accuracy(g: &Graph, x: &Tensor, y: &[i64]) -> f64 {
    let n = x.shape()[0];
    let mut right = 0;
    for s in (0..n).step_by(500) {
        let b = x.gathered(0, &(s..(s + 500).min(n)).collect::<Vec<_>>());
        let o = &g.outputs[0].name;
        let r = eval::run(g, &[(g.inputs[0].name.as_str(), &b)], &[o.as_str()]).unwrap();
        for (i, row) in r[o].as_f32().unwrap().chunks_exact(10).enumerate() {
            let best = row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).unwrap().0;
            right += (best as i64 == y[s + i]) as usize;
        }
    }
    100.0 * right as f64 / n as f64
}
fn logits(g: &Graph, x: &Tensor) -> Vec<f32> {
    let n = x.shape()[0];
    let mut all = vec![];
    for s in (0..n).step_by(500) {
        let b = x.gathered(0, &(s..(s + 500).min(n)).collect::<Vec<_>>());
        let o = &g.outputs[0].name;
        let r = eval::run(g, &[(g.inputs[0].name.as_str(), &b)], &[o.as_str()]).unwrap();
        all.extend_from_slice(r[o].as_f32().unwrap());
    }
    all
}
fn kl(a: &[f32], b: &[f32]) -> f64 {
    let ls = |r: &[f32]| {
        let m = r.iter().fold(f64::MIN, |m, &v| m.max(v as f64));
        let s: f64 = r.iter().map(|&v| (v as f64 - m).exp()).sum();
        r.iter().map(|&v| v as f64 - m - s.ln()).collect::<Vec<_>>()
    };
    a.chunks_exact(10)
        .zip(b.chunks_exact(10))
        .map(|(a, b)| {
            let (p, q) = (ls(a), ls(b));
            p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum::<f64>()
        })
        .sum::<f64>()
        / (a.len() / 10) as f64
}
fn main() {
    let args: Vec<String> = std::env::args().collect();
    let (model, method, structure) =
        (&args[1], args[2].parse::<Method>().unwrap(), args[3].parse::<Structure>().unwrap());
    let set = std::env::var("SET").unwrap_or("val".into());
    let dense =
        onnx::read(&std::fs::read(format!("/work/shared/anchors/models/{model}.onnx")).unwrap()).unwrap();
    let calib = data("calibration");
    let x = data(&set);
    let y: Vec<i64> = std::fs::read(format!("/tmp/raw/{set}.y"))
        .unwrap()
        .chunks_exact(8)
        .map(|c| i64::from_le_bytes(c.try_into().unwrap()))
        .collect();
    let base = accuracy(&dense, &x, &y);
    let a = cost::analyse(&dense).unwrap();
    let dl = logits(&dense, &x);
    println!("{model} dense {base:.2}");
    for p in &args[4..] {
        let rate = p.strip_prefix('r');
        let share: f64 = rate.unwrap_or(p).parse().unwrap_or(1.0);
        let budget = if let Some(b) = p.strip_prefix("b") {
            Budget::default().with(Metric::ModelBytes, b.parse().unwrap())
        } else if rate.is_some() {
            Budget::default()
        } else {
            Budget::default().with(Metric::Macs, share / 100.0 * a.macs().get() as f64)
        };
        let req = Request {
            method,
            structure,
            pattern: Pattern::Block(std::env::var("BLOCK").map_or(1, |v| v.parse().unwrap())),
            budget,
            rate: rate.map(|_| share),
            threshold: None,
            seed: 0,
            refit_share: 1.0,
            calibration: Some(&calib),
        };
        let t = std::time::Instant::now();
        let mut stages: Vec<(String, f64)> = vec![];
        let mut last = String::new();
        let r = prune(&dense, &req, &|_| ByteCount(0), &mut |p| {
            if p.stage != last {
                last = p.stage.into();
                stages.push((last.clone(), t.elapsed().as_secs_f64()));
            }
        })
        .unwrap();
        let took = t.elapsed().as_secs_f64();
        let acc = accuracy(&r.graph, &x, &y);
        let c = cost::analyse(&r.graph).unwrap();
        let k = kl(&dl, &logits(&r.graph, &x));
        println!(
            "{model} {p}%: KL {k:.4} lost {:.2} (acc {acc:.2}) macs {:.1}% nnz {:.1}% {took:.1}s {:?} {:?}",
            base - acc,
            100.0 * c.macs().get() as f64 / a.macs().get() as f64,
            100.0 * c.nonzero as f64 / a.nonzero as f64,
            r.kept.iter().map(|k| format!("{}/{}", k.kept, k.of)).collect::<Vec<_>>().join(" "),
            stages.iter().map(|s| format!("{} {:.1}", s.0, s.1)).collect::<Vec<_>>().join(", ")
        );
    }
}
