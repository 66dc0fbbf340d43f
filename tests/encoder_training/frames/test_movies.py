import re

import h5py
import numpy as np
import pytest
from PIL import ExifTags, Image

from contracts.errors import MisuseError, UserError
from encoder_training.frames.movies import find_movies, movies_in, open_movie, read_frames
from simulation.cortex.movie_files import FrameFiles
from simulation.scenes.movie import random_movie

GREY = np.random.default_rng(0).integers(0, 256, (12, 5, 7), dtype=np.uint8)
COLOUR = np.random.default_rng(1).integers(0, 256, (4, 5, 7, 3), dtype=np.uint8)


def npy(folder, frames):
    """Write an array of numpy whose name ends as the Allen Institute's does."""
    path = folder / "natural_movie_1.h5"
    with path.open("wb") as file:
        np.save(file, frames)
    return path


def hdf5(folder, frames):
    """Write a data set ``frames`` beside another of three dimensions."""
    path = folder / "movie.hdf5"
    with h5py.File(path, "w") as file:
        file["frames"] = frames
        file["other/mask"] = np.zeros((2, 2, 2))
    return path


def lone_data_set(folder, frames):
    """Write the only data set of three or four dimensions, under another name."""
    path = folder / "movie.h5"
    with h5py.File(path, "w") as file:
        file["stimulus/data"] = frames
        file["rate"] = np.arange(3)
    return path


def images(folder, frames):
    """Write a folder of images whose names do not sort by their numbers."""
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / f"natural_scene_{number}.tiff")
    (folder / "notes.txt").write_text("no image")
    return folder


def images_from_one(folder, frames):
    """Write images as ffmpeg numbers them."""
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / f"{number + 1:06}.png")
    return folder


def pages(folder, frames):
    """Write a tiff of several pages."""
    path = folder / "movie.tif"
    first, *rest = [Image.fromarray(frame) for frame in frames]
    first.save(path, save_all=True, append_images=rest)
    return path


WRITERS = (npy, hdf5, lone_data_set, images, images_from_one, pages)


@pytest.mark.parametrize("frames", [GREY, COLOUR], ids=["grey", "colour"])
@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)
def test_frames_come_back(tmp_path, write, frames):
    """Whatever the file, the frames are those that were written, in their order."""
    movie = open_movie(write(tmp_path, frames))
    assert (movie.n_frames, movie.height, movie.width) == frames.shape[:3]
    np.testing.assert_array_equal(movie.frames(0, len(frames)), frames)
    np.testing.assert_array_equal(movie.frames(2, 3), frames[2:3])
    assert movie.frames(1, 3).dtype == np.uint8
    with pytest.raises(UserError, match=f"frames 0 to {len(frames) - 1}, and -1 to 0"):
        read_frames(movie, np.array([0, -1]))
    with pytest.raises(UserError, match=f"and {len(frames)} to {len(frames)} are asked"):
        read_frames(movie, np.array([len(frames)]))


def test_an_array_is_mapped_and_not_read(tmp_path):
    """A movie of an hour costs nothing until its frames are asked for."""
    path = tmp_path / "movie.npy"
    shape = (10_000, 304, 608)
    header = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
    del header
    movie = open_movie(path)
    assert movie.n_frames == shape[0]
    assert not movie.frames(shape[0] - 2, shape[0]).any()


def test_a_gif_is_read_in_colour(tmp_path):
    """A palette is turned into its colours."""
    first, *rest = [Image.new("RGB", (8, 6), colour) for colour in ("red", "lime", "blue")]
    first.save(tmp_path / "movie.gif", save_all=True, append_images=rest)
    movie = open_movie(tmp_path / "movie.gif")
    assert movie.n_frames == 3
    np.testing.assert_array_equal(movie.frames(0, 3)[:, 0, 0], np.eye(3) * 255)


def test_frames_are_read_by_number(tmp_path):
    """Numbers may be near each other or far, in any order, and repeat."""
    movie = open_movie(npy(tmp_path, GREY))
    for numbers in ([3, 4, 5], [11, 0], [7, 7, 2, 3], [0]):
        seen = read_frames(movie, np.array(numbers))
        np.testing.assert_array_equal(seen, GREY[numbers])


def test_stimuli_are_found_by_name(tmp_path):
    """A folder may hold files and folders, each named for its stimulus."""
    np.save(tmp_path / "natural_movie_one.npy", GREY)
    (tmp_path / "natural_scenes").mkdir()
    images(tmp_path / "natural_scenes", COLOUR)
    movies = find_movies(tmp_path, ["natural_scenes", "natural_movie_one"])
    assert list(movies) == ["natural_scenes", "natural_movie_one"]
    assert movies["natural_scenes"].n_frames == len(COLOUR)
    np.testing.assert_array_equal(movies["natural_movie_one"].frames(0, 12), GREY)


def test_the_cache_of_the_allen_sdk_is_known(tmp_path):
    """The names in its folders are not those in the recording."""
    movies = tmp_path / "natural_movie_templates"
    movies.mkdir()
    npy(movies, GREY)
    scenes = tmp_path / "natural_scene_templates"
    scenes.mkdir()
    images(scenes, GREY[:3])
    found = find_movies(tmp_path, ["natural_movie_one", "natural_scenes"])
    assert [movie.n_frames for movie in found.values()] == [12, 3]
    assert find_movies(movies, ["natural_movie_one"])["natural_movie_one"].n_frames == 12
    assert find_movies(scenes, ["natural_scenes"])["natural_scenes"].n_frames == 3


def test_movies_of_a_simulated_session_are_found(tmp_path):
    """What the simulated cortex keeps of its frames is read as it is."""
    movie = random_movie("natural_movie_one", seed=0, n_scenes=1, frames_per_scene=2)
    frames = np.random.default_rng(0).integers(0, 256, (2, 304, 608), dtype=np.uint8)
    FrameFiles(tmp_path).keep(movie, 0, frames)
    (tmp_path / "natural_movie_one_facts.jsonl").write_text("{}\n")
    found = find_movies(tmp_path, ["natural_movie_one"])["natural_movie_one"]
    np.testing.assert_array_equal(found.frames(0, 2), frames)


def test_one_file_is_one_stimulus(tmp_path):
    """A file may be given itself, for one name and no more."""
    path = npy(tmp_path, GREY)
    assert find_movies(path, ["anything"])["anything"].n_frames == 12
    with pytest.raises(UserError, match="was given for 2: one, two"):
        find_movies(path, ["one", "two"])
    with pytest.raises(MisuseError, match="at least one name"):
        find_movies(path, [])


def test_a_path_says_which_stimuli_it_has(tmp_path):
    """By the files in a folder, by the name of the file or folder itself, or not at all."""
    names = ["flashes", "natural_movie_one", "natural_scenes"]
    path = npy(tmp_path, GREY)
    assert movies_in(tmp_path, names) == ["natural_movie_one"]
    assert movies_in(path, names) == ["natural_movie_one"]
    scenes = tmp_path / "natural_scene_templates"
    scenes.mkdir()
    assert movies_in(images(scenes, GREY), names) == ["natural_scenes"]
    assert movies_in(tmp_path, names) == ["natural_movie_one", "natural_scenes"]
    assert movies_in(path.rename(tmp_path / "movie.npy"), names) == names


def test_stimuli_that_are_missing_are_listed(tmp_path):
    """The message says what is looked for and what is there."""
    np.save(tmp_path / "natural_movie_one.npy", GREY)
    with pytest.raises(UserError, match=r"for flashes, gabors in .*there are: natural_movie_one\."):
        find_movies(tmp_path, ["natural_movie_one", "flashes", "gabors"])
    with pytest.raises(UserError, match="is not there"):
        find_movies(tmp_path / "no", ["flashes"])


def test_a_stimulus_that_is_there_twice_is_refused(tmp_path):
    """We do not choose between two files."""
    np.save(tmp_path / "natural_movie_one.npy", GREY)
    npy(tmp_path, GREY)
    with pytest.raises(UserError, match=r"once, found natural_movie_one.npy, natural_movie_1.h5"):
        find_movies(tmp_path, ["natural_movie_one"])


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (GREY / 255, r"got float64 from .* to .*numpy.rint\(255 \* frames\)"),
        (GREY.astype(np.int64) * 3, r"got int64 from .*after bringing them to 0 to 255"),
        (GREY[0], r"got \(5, 7\)"),
        (GREY[..., np.newaxis], r"got \(12, 5, 7, 1\)"),
        (GREY[:0], r"got \(0, 5, 7\)"),
    ],
    ids=["float", "int64", "one picture", "one colour", "empty"],
)
@pytest.mark.parametrize("write", [npy, hdf5], ids=["npy", "hdf5"])
def test_arrays_that_are_no_frames_say_what_to_do(tmp_path, write, frames, message):
    """Shape and type are named, with the range and the remedy."""
    with pytest.raises(UserError, match=message):
        open_movie(write(tmp_path, frames))


@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)
def test_files_cut_short_are_refused(tmp_path, write):
    """A download that ended early is a sentence, not a traceback."""
    path = write(tmp_path, np.tile(GREY, (1, 40, 40)))
    file = sorted(path.iterdir())[0] if path.is_dir() else path
    file.write_bytes(file.read_bytes()[:-5000])
    with pytest.raises(UserError, match=re.escape(str(file)) + "|cut short"):
        open_movie(path).frames(0, 12)


def test_an_array_of_objects_is_refused(tmp_path):
    """Nothing is ever unpickled."""
    with pytest.raises(UserError, match="cannot be read"):
        open_movie(npy(tmp_path, np.array([{}, {}], dtype=object)))


def test_a_video_is_refused_with_the_way_to_convert_it(tmp_path):
    """Exact frames come from pictures, and the message says how to get them."""
    path = tmp_path / "natural_movie_one.mp4"
    path.write_bytes(b"\0\0\0\x20ftypisom" + bytes(100))
    message = r"is a video.*ffmpeg -i natural_movie_one.mp4 .*natural_movie_one/%06d.png"
    with pytest.raises(UserError, match=message):
        open_movie(path)
    with pytest.raises(UserError, match=message):
        find_movies(tmp_path, ["natural_movie_one"])


def test_other_files_are_refused(tmp_path):
    """A file of text holds no frames, nor does a file that is not there."""
    path = tmp_path / "movie.txt"
    path.write_text("no frames")
    with pytest.raises(UserError, match="is none of these"):
        open_movie(path)
    with pytest.raises(UserError, match="No such file"):
        open_movie(tmp_path / "no.npy")


def test_a_file_of_two_movies_is_refused(tmp_path):
    """Which data set is the movie is not guessed."""
    with h5py.File(tmp_path / "two.h5", "w") as file:
        file["a"], file["b"] = GREY, GREY
    with pytest.raises(UserError, match="found a, b"):
        open_movie(tmp_path / "two.h5")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["0.png", "1.png", "3.png"], "without a gap, and 2 are missing"),
        (["5.png", "6.png"], "the first is 5"),
        (["1.png", "01.png"], r"have the same: 01\.png and 1\.png"),
        (["a.png", "1.png"], r"a\.png have none"),
        ([], "has none"),
    ],
    ids=["gap", "late", "twice", "no number", "none"],
)
def test_images_whose_order_is_unclear_are_refused(tmp_path, names, message):
    """A frame that is missing would shift all that follow it."""
    for name in names:
        Image.fromarray(GREY[0]).save(tmp_path / name)
    with pytest.raises(UserError, match=message):
        open_movie(tmp_path)


def test_images_of_two_sizes_are_refused(tmp_path):
    """The image that differs is named."""
    Image.fromarray(GREY[0]).save(tmp_path / "0.png")
    Image.fromarray(GREY[0, :3]).save(tmp_path / "1.png")
    with pytest.raises(UserError, match=r"5 x 7 as the first; .*1\.png is 3 x 7"):
        open_movie(tmp_path).frames(0, 2)


def test_images_of_sixteen_bits_are_refused(tmp_path):
    """Their range is named."""
    Image.fromarray(GREY[0].astype(np.uint16) * 256).save(tmp_path / "0.png")
    with pytest.raises(UserError, match=r"of eight bits.*'I;16', from"):
        open_movie(tmp_path)


def test_images_that_are_stored_turned_are_refused(tmp_path):
    """One that says that it is upright is read; the number of the orientation is named."""
    image = Image.fromarray(GREY[0])
    for number, orientation in enumerate((1, 6)):
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = orientation
        image.save(tmp_path / f"{number}.jpg", exif=exif)
    assert open_movie(tmp_path).height == GREY.shape[1]
    with pytest.raises(UserError, match=r"1\.jpg is stored turned, as its EXIF orientation 6"):
        open_movie(tmp_path).frames(0, 2)
