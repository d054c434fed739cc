"""A model as one array on its way: the same values in the same order, whatever they are."""

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from common.messages.packing import is_packed, pack, unpack
from common.messages.records import LiveArray, to_record
from common.models.networks import build_model

STATE = build_model("cnn", 10, 2, "relu", True, 1).state_dict()


def test_a_packed_model_is_one_array_and_comes_back_bit_for_bit_in_its_order() -> None:
    model = to_record(STATE)
    others = {"config": ConfigRecord({"server-round": 3}), "metrics": MetricRecord({"loss": 0.5})}
    content = RecordDict(
        {"arrays": model, "shared": ArrayRecord({"images": Array(np.ones((2, 3), np.uint8))}), **others}
    )
    packed = pack(content)
    assert is_packed(packed)
    assert not is_packed(content)
    assert [len(record) for record in packed.array_records.values()] == [1, 1]
    for make in (Array, LiveArray):
        back = unpack(packed, make)
        assert list(back) == list(content)
        assert dict(back.config_records) | dict(back.metric_records) == others
        found = back.array_records["arrays"]
        assert list(found) == list(model)
        for name, array in model.items():
            assert (found[name].dtype, tuple(found[name].shape)) == (array.dtype, tuple(array.shape))
            assert found[name].numpy().tobytes() == array.numpy().tobytes()
            assert type(found[name]) is make


def test_values_that_training_never_gives_survive_too() -> None:
    values = {
        "nan": np.array([np.nan, -0.0, np.inf], np.float32),
        "scalar": np.array(7, np.int64),
        "empty": np.zeros((0, 4), np.float64),
        "strided": np.arange(12, dtype=np.int32).reshape(3, 4).T,
    }
    back = unpack(pack(RecordDict({"arrays": ArrayRecord({name: Array(value) for name, value in values.items()})})))
    for name, value in values.items():
        found = back.array_records["arrays"][name].numpy()
        assert (found.dtype, found.shape, found.tobytes()) == (value.dtype, value.shape, value.tobytes())


def test_what_is_not_packed_stays_and_bytes_of_a_stranger_raise() -> None:
    plain = RecordDict({"arrays": to_record(STATE)})
    assert unpack(plain)["arrays"] is plain["arrays"]
    assert unpack(RecordDict()) == RecordDict()
    for content in (b"", b"\xff" * 8, b"\x02\0\0\0\0\0\0\0{}x", b"\x08\0\0\0\0\0\0\0[1, 2, 3"):
        odd = RecordDict({"arrays": ArrayRecord({"safetensors": Array(np.frombuffer(content, np.uint8))})})
        with pytest.raises(Exception, match=r"deserializing"):
            unpack(odd)
