//! Requests as peers send them, and as they must not.

use proptest::prelude::*;

use super::*;

fn signature() -> Signature {
    let input = Sample { name: "x".into(), shape: vec![2, 3] };
    Signature { input, output: Sample { name: "y".into(), shape: vec![4] } }
}

fn request(shape: &str, rest: &str) -> String {
    format!(r#"{{"id":"7","inputs":[{{"name":"x","datatype":"FP32","shape":{shape},{rest}}}]}}"#)
}

fn refusal(json: &str) -> String {
    read(json.as_bytes(), None, &signature()).unwrap_err().to_string()
}

#[test]
fn numbers_may_be_flat_or_nested() {
    for data in ["[1,2,3,4,5,6]", "[[[1,2,3],[4,5,6]]]", "[[1,2.0,3e0],[4,5,6]]"] {
        let json = request("[1,2,3]", &format!(r#""data":{data}"#));
        let read = read(json.as_bytes(), None, &signature()).unwrap();
        let values = vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        assert_eq!(read, Inference { id: "7".into(), rows: 1, values, binary_output: false });
    }
    let json = request("[1,2,3]", r#""data":[null,1,1e39,-1,0,0]"#);
    let values = read(json.as_bytes(), None, &signature()).unwrap().values;
    assert!(values[0].is_nan() && values[2] == f32::INFINITY && values[3] == -1.0);
}

#[test]
fn what_does_not_fit_the_model_is_refused_with_the_reason() {
    let data = r#""data":[1,2,3,4,5,6]"#;
    let other = |from: &str, to: &str| refusal(&request("[1,2,3]", data).replacen(from, to, 1));
    assert!(other(r#""x""#, r#""z""#).contains("no input `z`"));
    assert!(other("FP32", "INT64").contains("is FP32, not `INT64`"));
    assert!(other("[1,2,3]", "[2,2,3]").contains("has 6 elements, its shape asks for 12"));
    for shape in ["[1,3,2]", "[2,3]", "[]", "[1,2,3,1]", "[1,-2,-3]", "[6]"] {
        assert!(other("[1,2,3]", shape).contains("has shape [-1, 2, 3]"), "{shape}");
    }
    for rows in ["0", "-1", "9223372036854775807", "4097"] {
        assert!(other("[1,", &format!("[{rows},")).contains("is not 1 to 4096"), "{rows}");
    }
    assert!(other("\"data\"", "\"parameters\":{\"binary_data_size\":24},\"data\"").contains("either"));
    assert!(other("\"data\"", "\"parameters\":{\"shared_memory_region\":\"r\"},\"data\"").contains("shared"));
    assert!(other("}]", r#"}],"outputs":[{"name":"q"}]"#).contains("no output `q`"));
    assert!(
        other("}]", r#"}],"outputs":[{"name":"y","parameters":{"classification":2}}]"#).contains("offered")
    );
    assert!(refusal(r#"{"inputs":[]}"#).contains("0 inputs"));
    assert!(refusal(&request("[1,2,3]", "\"name2\":1")).contains("either"));
    assert!(other("\"7\"", &format!("{:?}", "i".repeat(129))).contains("the id is over"));
    for json in ["", "{", "[]", "null", "{\"inputs\":7}", "\u{0}", &request("[1,2,3]", r#""data":["a"]"#)] {
        assert!(refusal(json).contains("not a request"), "{json}");
    }
    let deep = format!(r#""data":{}1{}"#, "[".repeat(10_000), "]".repeat(10_000));
    assert!(refusal(&request("[1,2,3]", &deep)).contains("recursion limit"));
}

#[test]
fn bytes_behind_the_header_must_be_all_of_the_input() {
    let json = |size: u64| request("[1,2,3]", &format!(r#""parameters":{{"binary_data_size":{size}}}"#));
    let with = |size: u64, behind: usize| {
        let header = json(size);
        let body = [header.as_bytes(), &vec![0; behind]].concat();
        read(&body, Some(header.len()), &signature()).map_err(|refused| refused.to_string())
    };
    assert_eq!(with(24, 24).unwrap().values, [0.0; 6]);
    assert!(with(24, 23).unwrap_err().contains("more than there is"));
    assert!(with(24, 25).unwrap_err().contains("1 bytes belong to no input"));
    assert!(with(23, 23).unwrap_err().contains("its shape asks for 24"));
    assert!(with(u64::MAX, 24).unwrap_err().contains("more than there is"));
    let header = json(24);
    for length in [header.len() + 1, usize::MAX] {
        assert!(read(header.as_bytes(), Some(length), &signature()).is_err());
    }
    assert!(read(header.as_bytes(), Some(0), &signature()).is_err());
}

#[test]
fn a_label_is_an_id_and_a_number() {
    assert_eq!(read_label(br#"{"id":"a","label":3}"#), Ok(("a".into(), 3)));
    for bad in [&br#"{"id":"a"}"#[..], br#"{"id":"a","label":-1}"#, br#"{"id":"a","label":1,"x":2}"#, b"3"] {
        assert!(read_label(bad).is_err());
    }
}

proptest! {
    /// What is written is what was to be said, as numbers and as bytes.
    #[test]
    fn an_answer_is_read_back(values in proptest::collection::vec(any::<f32>(), 4..=4), binary: bool) {
        let output = signature().output;
        let answer =
            Answer { model: "m", version: "v", id: "7", output: &output, rows: 1, values: &values };
        let (body, header_bytes) = write(&answer, binary);
        let header_bytes = header_bytes.unwrap_or(body.len());
        let json: serde_json::Value = serde_json::from_slice(&body[..header_bytes]).unwrap();
        prop_assert_eq!(&json["outputs"][0]["shape"], &serde_json::json!([1, 4]));
        let read = match binary {
            true => floats(&body[header_bytes..]),
            false => serde_json::from_value::<Flat>(json["outputs"][0]["data"].clone()).unwrap().0,
        };
        for (read, value) in read.iter().zip(&values) {
            let same = read.to_bits() == value.to_bits() || (read.is_nan() && !value.is_finite());
            prop_assert!(same || (read.is_nan() && value.is_nan()), "{read} for {value}");
        }
        prop_assert_eq!(read.len(), values.len());
    }

    /// A request is read as it was meant, in both forms.
    #[test]
    fn a_request_is_read_as_it_was_meant(
        values in proptest::collection::vec(-1e30f32..1e30, 1..5),
        binary: bool,
    ) {
        let rows = values.len();
        let values: Vec<f32> = values.iter().flat_map(|&value| [value; 6]).collect();
        let shape = format!("[{rows},2,3]");
        let (header, behind) = match binary {
            true => (format!(r#""parameters":{{"binary_data_size":{}}}"#, rows * 24), bytes(&values)),
            false => (format!(r#""data":{}"#, serde_json::to_string(&values).unwrap()), Vec::new()),
        };
        let header = request(&shape, &header);
        let body = [header.as_bytes(), &behind].concat();
        let read = read(&body, Some(header.len()), &signature()).unwrap();
        prop_assert_eq!((read.rows, read.values), (rows, values));
    }

    /// Any bytes, and any damage to a good request, give an answer or a refusal.
    #[test]
    fn hostile_bytes_are_refused(
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
        header in proptest::option::of(0usize..400),
        at in any::<proptest::sample::Index>(),
        byte: u8,
    ) {
        let _ = read(&bytes, header, &signature());
        let _ = read_label(&bytes);
        let mut good = request("[1,2,3]", r#""data":[1,2,3,4,5,6]"#).into_bytes();
        let at = at.index(good.len());
        good[at] = byte;
        if let Ok(read) = read(&good, header, &signature()) {
            prop_assert_eq!(read.values.len(), read.rows * 6);
        }
    }
}
