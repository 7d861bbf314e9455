//! Operators that take channels in and make new ones: convolutions, products, recurrences, embeddings.

use super::super::Role;
use super::super::labels::{Label, Spread};
use super::Finder;

impl<'g> Finder<'g> {
    /// `count` new labels for what node `index` makes; a single channel cannot go.
    fn produced(&mut self, index: usize, count: usize) -> Vec<Label> {
        let labels = self.unions.fresh(count);
        if count == 1 {
            let reason = format!("node `{}` makes a single channel", self.graph.nodes[index].label());
            self.freeze_all(&labels, &reason);
        }
        labels
    }

    pub(super) fn conv(&mut self, index: usize) -> bool {
        let node = &self.graph.nodes[index];
        let Some((weights, shape)) = self.constant(node, 1).filter(|(_, shape)| shape.len() >= 3) else {
            return false;
        };
        let Ok(blocks) = usize::try_from(node.int("group", 1)) else { return false };
        let (outputs, depth) = (shape[0], shape[1]);
        if blocks == 0 || outputs % blocks != 0 {
            return false;
        }
        let why = format!("node `{}` takes them in along another axis", node.label());
        let input = self.only_along(node.input(0), 1, &why);
        if input.as_ref().is_some_and(|labels| labels.len() != depth.saturating_mul(blocks)) {
            return false;
        }
        let produced = self.produced(index, outputs);
        let (per_block, mut role) = (outputs / blocks, Role::Producer);
        match input {
            Some(labels) if blocks == 1 => self.site(weights, index, 1, Role::Consumer, labels),
            None if blocks == 1 => {}
            // Many small blocks (depthwise): a block goes whole, with what it reads.
            Some(labels) if depth < blocks => {
                role = Role::Carrier;
                for block in 0..blocks {
                    let first = produced[block * per_block];
                    let read = &labels[block * depth..(block + 1) * depth];
                    let made = &produced[block * per_block..(block + 1) * per_block];
                    read.iter().chain(made).for_each(|&label| self.unions.unite(label, first));
                }
            }
            None if depth < blocks => {
                let reason = format!("node `{}` filters channels that cannot be removed", node.label());
                self.freeze_all(&produced, &reason);
            }
            // Few large blocks: they shrink alike.
            labels => {
                let alike = |unions: &mut super::Unions, labels: &[Label], per_block: usize| {
                    for (at, &label) in labels.iter().enumerate() {
                        unions.unite(label, labels[at % per_block]);
                    }
                };
                alike(&mut self.unions, &produced, per_block);
                if let Some(labels) = labels {
                    alike(&mut self.unions, &labels, depth);
                    self.site(weights, index, 1, Role::Consumer, labels[..depth].to_vec());
                }
            }
        }
        self.made_by_weights(index, weights, 0, role, &produced);
        self.put(&node.outputs[0], Spread::along(shape.len(), 1, produced));
        true
    }

    /// The sites of what a convolution makes: its weights' axis, and its bias.
    fn made_by_weights(&mut self, index: usize, weights: &str, axis: usize, role: Role, produced: &[Label]) {
        self.site(weights, index, axis, role, produced.to_vec());
        match self.graph.nodes[index].input(2) {
            None => {}
            Some(_) => match self.constant(&self.graph.nodes[index], 2) {
                Some((bias, _)) => self.site(bias, index, 0, role, produced.to_vec()),
                None => self.freeze_all(produced, "their bias is computed"),
            },
        }
    }

    pub(super) fn conv_transpose(&mut self, index: usize) -> bool {
        let node = &self.graph.nodes[index];
        let Some((weights, shape)) = self.constant(node, 1).filter(|(_, shape)| shape.len() >= 3) else {
            return false;
        };
        let why = format!("node `{}` takes them in along another axis", node.label());
        let (blocks, per_block) = (node.int("group", 1), shape[1]);
        if blocks != 1 && (per_block != 1 || blocks != shape[0] as i64) {
            return false;
        }
        let input = self.only_along(node.input(0), 1, &why);
        let produced = if blocks == 1 {
            if let Some(labels) = input {
                self.site(weights, index, 0, Role::Consumer, labels);
            }
            self.produced(index, per_block)
        } else {
            // Depthwise: each channel is filtered by itself.
            match input {
                Some(labels) => labels,
                None => return true,
            }
        };
        let (axis, role) = if blocks == 1 { (1, Role::Producer) } else { (0, Role::Carrier) };
        self.made_by_weights(index, weights, axis, role, &produced);
        self.put(&node.outputs[0], Spread::along(shape.len(), 1, produced));
        true
    }

    pub(super) fn gemm(&mut self, index: usize) -> bool {
        let node = &self.graph.nodes[index];
        // An addend that is no constant would have to be united with the product: not seen in practice.
        if node.input(2).is_some() && self.constant(node, 2).is_none() {
            return false;
        }
        let flipped = |name: &str| node.int(name, 0) != 0;
        let matrix = |slot: usize| self.constant(node, slot).filter(|(_, shape)| shape.len() == 2);
        match (matrix(1), matrix(0)) {
            (Some(weights), _) => {
                let axes = if flipped("transB") { (1, 0) } else { (0, 1) };
                let summed = usize::from(!flipped("transA"));
                self.product(index, weights, axes, 0, summed, 1)
            }
            (None, Some(weights)) => {
                let axes = if flipped("transA") { (0, 1) } else { (1, 0) };
                let summed = usize::from(flipped("transB"));
                self.product(index, weights, axes, 1, summed, 0)
            }
            _ => false,
        }
    }

    pub(super) fn matmul(&mut self, index: usize) -> bool {
        let node = &self.graph.nodes[index];
        let rank = |slot: usize| self.shape_of(node.input(slot)).map_or(0, <[usize]>::len);
        let (a, b) = (rank(0), rank(1));
        match (self.constant(node, 1), self.constant(node, 0)) {
            (Some(weights), _) if b == 2 && a >= 2 => self.product(index, weights, (0, 1), 0, a - 1, a - 1),
            (_, Some(weights)) if a == 2 && b >= 2 => self.product(index, weights, (1, 0), 1, b - 2, b - 2),
            _ if a >= 2 && b >= 2 => self.product_of_values(index),
            _ => false,
        }
    }

    /// A product by constant weights, which take labels in along the axis `from` and make fresh ones along `to`. The
    /// value at `slot` is summed over along `summed`; the result's new axis is `made`.
    fn product(
        &mut self,
        index: usize,
        (weights, shape): (&'g str, &'g [usize]),
        (from, to): (usize, usize),
        slot: usize,
        summed: usize,
        made: usize,
    ) -> bool {
        let node = &self.graph.nodes[index];
        let outputs = shape[to];
        let produced = self.produced(index, outputs);
        if let Some(spread) = self.labels(node.input(slot)) {
            if spread.dims[summed] == 1 {
                // Channels along another axis pass; a value has its channels along one axis only.
                let reason = format!("node `{}` works across channels of another axis", node.label());
                self.freeze_all(&produced, &reason);
                self.made_by_product(index, weights, to, &produced);
                if node.op == "Gemm" && (summed != made || node.input(2).is_some()) {
                    return false;
                }
                self.put(&node.outputs[0], spread);
                return true;
            }
            let why = format!("node `{}` takes them in along another axis", node.label());
            if let Some(labels) = self.only_along(node.input(slot), summed, &why) {
                self.site(weights, index, from, Role::Consumer, labels);
            }
        }
        self.made_by_product(index, weights, to, &produced);
        if let Some((addend, shape)) = self.constant(node, 2).filter(|_| node.op == "Gemm") {
            // The addend broadcasts: its axis may be of length 1, or not there.
            let axis = (made + shape.len()).checked_sub(2).filter(|&axis| shape[axis] == outputs);
            if let Some(axis) = axis.filter(|_| outputs > 1) {
                self.site(addend, index, axis, Role::Producer, produced.clone());
            }
        }
        let rank = self.shape_of(node.outputs.first().map(String::as_str)).map_or(0, <[usize]>::len);
        self.put_along(&node.outputs[0], rank, made, produced);
        true
    }

    fn made_by_product(&mut self, index: usize, weights: &str, axis: usize, produced: &[Label]) {
        self.site(weights, index, axis, Role::Producer, produced.to_vec());
    }

    /// A product of two values, as in attention: labels may vary along leading axes (heads) and the axes that stay,
    /// not along the one summed over, since no weights could be masked there.
    fn product_of_values(&mut self, index: usize) -> bool {
        let node = &self.graph.nodes[index];
        let Some(output) = self.shape_of(Some(&node.outputs[0])) else { return false };
        let why = format!("node `{}` sums over them", node.label());
        let mut operands = Vec::new();
        for slot in 0..2 {
            let Some(shape) = self.shape_of(node.input(slot)) else { return false };
            let summed = if slot == 0 { shape.len() - 1 } else { shape.len() - 2 };
            let spread = self.labels(node.input(slot)).and_then(|spread| self.settled(spread, summed, &why));
            // As it broadcasts to the result: the axis summed over is none of it.
            let mut shape = shape.to_vec();
            shape[summed] = 1;
            operands.push((shape, spread));
        }
        let why = format!("meets fixed channels in node `{}`", node.label());
        if let Some(spread) = self.united(output, operands, &why) {
            self.put(&node.outputs[0], spread);
        }
        true
    }

    /// A recurrent layer takes channels in; its state stays as it is.
    pub(super) fn recurrent(&mut self, index: usize) -> bool {
        let node = &self.graph.nodes[index];
        let Some((weights, shape)) = self.constant(node, 1).filter(|(_, shape)| shape.len() == 3) else {
            return false;
        };
        if node.int("layout", 0) != 0 {
            return false;
        }
        let reason = format!("node `{}` keeps them as its state", node.label());
        node.inputs.iter().skip(3).for_each(|name| self.freeze(name, &reason));
        let why = format!("node `{}` runs along their axis", node.label());
        if let Some(labels) = self.only_along(node.input(0), 2, &why) {
            self.site(weights, index, 2, Role::Consumer, labels);
        }
        let made = self.unions.fresh(shape[1]);
        self.freeze_all(&made, &reason);
        self.site(weights, index, 1, Role::Producer, made);
        true
    }

    /// Rows of a constant table, picked at run time.
    pub(super) fn embedding(&mut self, index: usize) -> bool {
        let node = &self.graph.nodes[index];
        node.input(1).into_iter().for_each(|name| self.freeze(name, "they are used as indices"));
        let (Some((table, &[_, width])), Some(rank), 0) = (
            self.constant(node, 0),
            self.shape_of(node.outputs.first().map(String::as_str)).map(<[usize]>::len),
            node.int("axis", 0),
        ) else {
            return true;
        };
        let produced = self.produced(index, width);
        self.site(table, index, 1, Role::Producer, produced.clone());
        self.put_along(&node.outputs[0], rank, rank.saturating_sub(1), produced);
        true
    }
}
