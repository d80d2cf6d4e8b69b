import numpy as np
import pytest
import torch

from loquent.errors import WeightsError
from loquent.face import detector as detector_module
from loquent.face import embedded
from loquent.face import landmarker as landmarker_module
from loquent.face.crop import Square
from loquent.face.detector import STRIDE, Detector, DetectorConfig, same_face
from loquent.face.landmarker import Landmarker, LandmarkerConfig, PointNetConfig, part_points, to_network


def test_landmarker_shapes():
    model = Landmarker(landmarker_module.TINY).eval()
    points, logits = model.find_face(torch.zeros(2, 3, 32, 32))
    assert points.shape == (2, 478, 3)
    assert logits.shape == (2,)
    for part in ("lips", "eye"):
        placed, _ = model.part(part)(torch.zeros(1, 3, 16, 16))
        assert placed.shape == (1, len(part_points(part)), 3)


def test_a_batch_of_two_equals_two_of_one():
    torch.manual_seed(0)
    model = Landmarker(landmarker_module.TINY).eval()
    crops = torch.rand(2, 3, 32, 32)
    together, _ = model.find_face(crops)
    single = torch.cat([model.find_face(crop[None])[0] for crop in crops])
    torch.testing.assert_close(together, single, atol=1e-5, rtol=1e-4)


def test_detector_answers_per_cell():
    model = Detector(detector_module.TINY).eval()
    assert model(torch.zeros(1, 3, 64, 96)).shape == (1, 6, 64 // STRIDE, 96 // STRIDE)


def test_pyramid_covers_every_size_of_face():
    """A face from 10 % to 90 % of the height must fall into the range of some level."""
    for height, width in ((1000, 700), (240, 800), (90, 60)):
        scales = [scale for scale, _ in detector_module._pyramid(np.zeros((height, width, 3), np.uint8))]
        for part in np.linspace(0.1, 0.9, 30):
            sizes = [part * height * scale for scale in scales]
            assert any(detector_module.MIN_FACE_PX <= size <= detector_module.MAX_FACE_PX for size in sizes)


def test_answer_is_read_in_photo_pixels():
    answer = np.zeros((6, 12, 12), np.float32)
    answer[0] = -9
    row, column, scale = 6, 7, 0.5
    answer[:, row, column] = [3, 0.25, -0.5, np.log(1.5), np.cos(0.3), np.sin(0.3)]
    (found,) = detector_module._read_answer(answer, scale, 0.5)
    pad, typical = detector_module.PAD_PX, detector_module.TYPICAL_FACE_PX
    assert found.square.centre_x == pytest.approx(((column + 0.5) * STRIDE + 0.25 * typical - pad) / scale - 0.5)
    assert found.square.centre_y == pytest.approx(((row + 0.5) * STRIDE - 0.5 * typical - pad) / scale - 0.5)
    assert found.square.side_px == pytest.approx(1.5 * typical / scale, rel=1e-5)
    assert found.square.roll_rad == pytest.approx(0.3, abs=1e-5)


def test_neighbouring_faces_are_two():
    assert same_face(Square(0, 0, 50), Square(10, 5, 40))
    assert not same_face(Square(0, 0, 50), Square(45, 0, 50))


def test_configs_survive_json():
    for config, kind in ((LandmarkerConfig(), LandmarkerConfig), (DetectorConfig(), DetectorConfig)):
        assert kind.from_dict(config.to_dict()) == config


def test_crop_size_must_fit_the_stride():
    with pytest.raises(ValueError, match="multiple of the stride"):
        PointNetConfig(crop_size=100)


def test_pictures_become_tensors_from_minus_one_to_one():
    tensor = to_network(np.array([[[[0, 255, 51]]]], np.uint8))
    torch.testing.assert_close(tensor.flatten(), torch.tensor([-1.0, 1.0, -0.6]))


def test_missing_weights_say_where_they_belong(monkeypatch, tmp_path):
    monkeypatch.setattr(embedded, "WEIGHTS", tmp_path)
    embedded.load_detector.cache_clear()
    try:
        with pytest.raises(WeightsError, match=r"config\.json is missing; reinstall"):
            embedded.load_detector()
    finally:
        embedded.load_detector.cache_clear()
